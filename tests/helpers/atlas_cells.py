"""Small cells of an atlas, how they are ingested, and processes that do it."""

import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from gca_core.atlas import IngestConfig

CELL_TYPES = {"CD4 T": "CL:0000624", "B": "CL:0000236", "NK": "CL:0000623"}
GENES = [f"gene{number:02d}" for number in range(40)]


def make_cells(seed: int = 0, n_cells: int = 240) -> ad.AnnData:
    """Small counts in which the perturbation and the cell type show; two donors, NK without donor d2's controls.

    The last ten cells carry no label, the five before them one that is no cell type.
    """
    rng = np.random.default_rng(seed)
    types = rng.choice(list(CELL_TYPES), size=n_cells).astype(object)
    condition = rng.choice(["ctrl", "stim"], size=n_cells)
    donor = rng.choice(["d1", "d2"], size=n_cells)
    condition[(types == "NK") & (donor == "d2")] = "stim"
    rates = np.full((n_cells, len(GENES)), 2.0)
    for place, name in enumerate(CELL_TYPES):
        rates[types == name, place * 5 : place * 5 + 5] = 10.0
    rates[condition == "stim", 30:35] = 12.0
    types[-10:] = None
    types[-15:-10] = "mystery"
    obs = pd.DataFrame(
        {"condition": condition, "cell_type": types, "donor": donor}, index=[f"cell{i}" for i in range(n_cells)]
    )
    counts = sp.csr_matrix(rng.poisson(rates).astype(np.float32))
    return ad.AnnData(X=counts, obs=obs, var=pd.DataFrame(index=GENES))


def ingest_config(path: Path, dataset: str, **changes: object) -> IngestConfig:
    """How the cells of :func:`make_cells` are ingested."""
    options: dict[str, object] = {
        "input_uri": str(path),
        "dataset": dataset,
        "perturbation_column": "condition",
        "control_value": "ctrl",
        "perturbation_names": {"stim": "interferon beta"},
        "cell_type_column": "cell_type",
        "donor_column": "donor",
    }
    return IngestConfig.model_validate(options | changes)


def in_python(code: str, *args: str) -> subprocess.Popen[str]:
    """A Python process in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
