"""Fixtures of this folder."""

from tests.helpers.inference_requests import make_request

__all__ = ["make_request"]
