"""Jobs in processes of their own, on the cells that the unit tests of inference have."""

from tests.unit.inference.conftest import make_request

__all__ = ["make_request"]
