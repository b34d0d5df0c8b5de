"""Fixtures of this folder."""

from tests.helpers.blood import blood, database, simulated

__all__ = ["blood", "database", "simulated"]
