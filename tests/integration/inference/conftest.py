"""Jobs in processes of their own, on the cells that the unit tests of inference have."""

from tests.helpers.inference_requests import make_request

__all__ = ["make_request"]
