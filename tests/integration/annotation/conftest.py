"""Annotations of whole files, on the cells that the unit tests of annotation have."""

from tests.unit.annotation.conftest import blood, database, simulated

__all__ = ["blood", "database", "simulated"]
