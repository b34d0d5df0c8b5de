"""What an atlas itself says of a response: the reference, and how good it will be."""

from gca_core.responses.forecast import Expected, Forecast
from gca_core.responses.measured import Measured, pool_groups, type_distances
from gca_core.responses.reference import Answer, Reference

__all__ = ["Answer", "Expected", "Forecast", "Measured", "Reference", "pool_groups", "type_distances"]
