"""Trainings from beginning to end, on the cells that the unit tests of the latent room have."""

from tests.helpers.latent_counts import configure, save

__all__ = ["configure", "save"]
