"""A tiny data set of counts with known groups."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from gca_core.latent.config import LatentConfig, make_config
from gca_core.matrix.normalise import log_normalise

N_GENES = 60
GROUPS = ("a", "b", "c")
Save = Callable[[ad.AnnData], str]
Configure = Callable[..., LatentConfig]


def counts_with_groups(n_cells: int = 150, *, seed: int = 0, batch_effect: float = 0.0) -> ad.AnnData:
    """Negative binomial counts (dispersion 1/4) of three groups with programs of 15 genes, and two batches."""
    rng = np.random.default_rng(seed)
    group, batch = np.arange(n_cells) % 3, rng.integers(0, 2, n_cells)
    log_mean = np.tile(rng.normal(0.3, 0.6, N_GENES), (n_cells, 1))
    for code in range(3):
        log_mean[group == code, 15 * code : 15 * (code + 1)] += 1.3
    log_mean[batch == 1, ::2] += batch_effect
    mean = np.exp(log_mean) * rng.lognormal(0, 0.3, (n_cells, 1))
    counts = rng.negative_binomial(4, 4 / (4 + mean))
    counts[:, -1] = 1
    obs = pd.DataFrame(
        {"group": pd.Categorical(np.array(GROUPS)[group]), "batch": np.array(["p", "q"])[batch]},
        index=[f"cell{i}" for i in range(n_cells)],
    )
    var = pd.DataFrame(index=[f"gene{i}" for i in range(N_GENES)])
    return ad.AnnData(X=sp.csr_matrix(counts, dtype=np.float32), obs=obs, var=var)


def scaled_with_raw(adata: ad.AnnData) -> ad.AnnData:
    """The same cells as many published files hold them: X scaled, raw log-normalised, no counts."""
    logged = ad.AnnData(X=log_normalise(adata.X), obs=adata.obs.copy(), var=adata.var.copy())
    logged.raw = logged.copy()
    dense = np.asarray(logged.X.todense())
    logged.X = (dense - dense.mean(axis=0)) / (dense.std(axis=0) + 1e-6)
    return logged


@pytest.fixture
def adata() -> ad.AnnData:
    return counts_with_groups()


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def write(adata: ad.AnnData) -> str:
        path = tmp_path / f"input-{len(list(tmp_path.glob('input-*')))}.h5ad"
        adata.write_h5ad(path)
        return str(path)

    return write


@pytest.fixture
def configure(tmp_path: Path) -> Configure:
    def build(input_uri: str, **options: Any) -> LatentConfig:
        small = {"latent_dim": 4, "hidden_dims": (24,), "epochs": 12, "batch_size": 32, "lr": 5e-3}
        return make_config({"input_uri": input_uri, "output_uri": str(tmp_path / "out"), **small, **options})

    return build
