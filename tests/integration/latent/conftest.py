"""Trainings from beginning to end, on the cells that the unit tests of the latent room have."""

from tests.unit.latent.conftest import configure, save

__all__ = ["configure", "save"]
