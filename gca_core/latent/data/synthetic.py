"""Made-up cells for a dry run: nothing can be learned from its scores but that every step works."""

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from gca_core.latent.config import LatentConfig

N_CELLS = 120
N_GENES = 60
TYPES = ("a", "b", "c")
FOLD = 3.0
INVERSE_DISPERSION = 4.0


def synthetic_cells(n_cells: int = N_CELLS, n_genes: int = N_GENES, *, seed: int = 0) -> ad.AnnData:
    """Negative binomial counts of three cell types in two batches.

    Args:
        n_cells: cells.
        n_genes: genes; each type has a third of them raised threefold.
        seed: decides every count.

    Returns:
        Counts as ``X`` (cells, genes), and ``cell_type`` and ``batch`` in obs.
    """
    rng = np.random.default_rng(seed)
    types, batches = np.arange(n_cells) % len(TYPES), rng.integers(0, 2, n_cells)
    raised = np.arange(n_genes) % len(TYPES)
    mean = rng.lognormal(0.3, 0.5, n_genes) * rng.lognormal(0, 0.3, (n_cells, 1))
    mean = mean * np.where(types[:, None] == raised, FOLD, 1.0) * np.where(batches[:, None] == 1, 1.2, 1.0)
    counts = rng.negative_binomial(INVERSE_DISPERSION, INVERSE_DISPERSION / (INVERSE_DISPERSION + mean))
    # no cell is empty
    counts[:, 0] += 1
    obs = pd.DataFrame(
        {"cell_type": np.array(TYPES)[types], "batch": np.array(["p", "q"])[batches]},
        index=[f"cell_{i}" for i in range(n_cells)],
    )
    var = pd.DataFrame(index=[f"gene_{i}" for i in range(n_genes)])
    return ad.AnnData(X=sp.csr_matrix(counts, dtype=np.float32), obs=obs, var=var)


def dry_run_options() -> dict[str, Any]:
    """Options that fit :func:`synthetic_cells`, whatever the run's own configuration says of its data."""
    return {
        "counts_layer": None,
        "recover_counts": False,
        "labels_key": "cell_type",
        "label_map": None,
        "batch_key": "batch",
        "split_key": None,
        "test_batches": (),
        "n_folds": 2,
        "epochs": 1,
        "kl_warmup_epochs": 0,
    }


def as_dry_run(config: LatentConfig, *, input_uri: str, output_uri: str) -> LatentConfig:
    """``config`` with the synthetic cells as its data and one epoch."""
    places = {"input_uri": input_uri, "output_uri": output_uri}
    return LatentConfig.model_validate({**config.model_dump(), **dry_run_options(), **places})
