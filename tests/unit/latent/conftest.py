"""Fixtures of this folder."""

from tests.helpers.latent_counts import adata, configure, save

__all__ = ["adata", "configure", "save"]
