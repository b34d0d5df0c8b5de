"""Latent annotation: a variational autoencoder on counts, and how good its latent space is.

Names are imported when first used, so that the configuration can be built without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gca_core.latent.config import LatentConfig as LatentConfig
    from gca_core.latent.config import load_config as load_config
    from gca_core.latent.config import make_config as make_config
    from gca_core.latent.data.adapter import DataAdapter as DataAdapter
    from gca_core.latent.evaluation.evaluate import evaluate_latent as evaluate_latent
    from gca_core.latent.model.adapter import ModelAdapter as ModelAdapter
    from gca_core.latent.model.adapter import TorchVAE as TorchVAE
    from gca_core.latent.train import run_training as run_training

_HOMES = {
    "LatentConfig": "config",
    "load_config": "config",
    "make_config": "config",
    "DataAdapter": "data.adapter",
    "ModelAdapter": "model.adapter",
    "TorchVAE": "model.adapter",
    "evaluate_latent": "evaluation.evaluate",
    "run_training": "train",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
