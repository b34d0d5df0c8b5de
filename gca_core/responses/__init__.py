"""What an atlas itself says of a response: the reference, and how good it will be."""

from gca_core.responses.models import Expected, Forecast

__all__ = ["Expected", "Forecast"]
