"""Small cells for requests of a prediction."""

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from gca_core.inference.models import InferenceRequest

GENES = [f"g{i:03d}" for i in range(120)]


def make_cells(n_cells: int, seed: int, *, raised: slice = slice(0, 0), lowered: slice = slice(0, 0)) -> ad.AnnData:
    """Sparse counts with a few genes raised or lowered."""
    rng = np.random.default_rng(seed)
    rates = np.tile(np.geomspace(0.05, 20, len(GENES)), (n_cells, 1)) * rng.lognormal(0, 0.3, (n_cells, 1))
    rates[:, raised] *= 4
    rates[:, lowered] *= 0.25
    obs = pd.DataFrame(index=[f"cell{i}" for i in range(n_cells)])
    return ad.AnnData(sp.csr_matrix(rng.poisson(rates).astype(np.float32)), obs=obs, var=pd.DataFrame(index=GENES))


def with_pairs(cells: ad.AnnData, pairs: list[str]) -> ad.AnnData:
    """The same cells, dealt out to pairs."""
    cells.obs["pair"] = pd.Categorical([pairs[i % len(pairs)] for i in range(cells.n_obs)])
    return cells


@pytest.fixture
def make_request(tmp_path: Path) -> Callable[..., InferenceRequest]:
    """A request whose three files are written; options replace its fields."""

    def make(**options: object) -> InferenceRequest:
        files = {
            "prompt": with_pairs(make_cells(200, 1, raised=slice(60, 70), lowered=slice(90, 100)), ["a", "b"]),
            "control": with_pairs(make_cells(200, 2), ["a", "b"]),
            "query": make_cells(150, 3),
        }
        for name, cells in files.items():
            cells.write_h5ad(tmp_path / f"{name}.h5ad")
        fields: dict[str, object] = {
            "candidate_id": "c-1",
            **{f"{name}_uri": str(tmp_path / f"{name}.h5ad") for name in files},
            "output_uri": str(tmp_path / "out" / "prediction.h5ad"),
        }
        return InferenceRequest.model_validate(fields | options)

    return make
