"""Measured responses that HAYSTACK is judged on; what isn't in GCA_BENCH_DATA (default ../shared/data) is None.

* drugs: 79 drugs in 4 types of PBMC, as rank scores: vectors, no cells and no controls;
* cytokines: mean responses to 22 cytokines (CytoSig), alone or worked into real control cells;
* Kang 2018: PBMC under interferon beta, three donors with both conditions, the authors' labels; and the cells of it
  that the package brings.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse as sp

from gca_core.datasets import kang2018_mini
from gca_core.inference.resample import draw, solve_rates
from gca_core.knowledge.bundled.catalogue import load_catalogue
from gca_core.matrix.normalise import log_normalise
from gca_core.matrix.stats import group_sums

DATA = Path(os.environ.get("GCA_BENCH_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
KANG = DATA / "cells" / "kang2018_ifnb_9069x14053_counts.h5ad"
SIGNATURES = DATA / "signatures" / "cytokine_response_22.tsv.gz"
DRUGS = DATA / "responses" / "drugs_79x4_pbmc_rank_scores.h5ad"

CONTROL = "control"
PAIRED_DONORS = ("101", "107", "1015")
KANG_TYPES = {
    "CD14+ Monocytes": "CL:0002057",
    "FCGR3A+ Monocytes": "CL:0002396",
    "CD4 T cells": "CL:0000624",
    "CD8 T cells": "CL:0000625",
    "B cells": "CL:0000236",
    "NK cells": "CL:0000623",
    "Dendritic cells": "CL:0000451",
    "Megakaryocytes": "CL:0000556",
}
KANG_CONDITIONS = {"ctrl": CONTROL, "stim": "interferon beta"}
CYTOKINE_TYPES = ("CD14+ Monocytes", "CD4 T cells", "B cells")
GROUP = ["perturbation", "cell_type_id", "cell_type", "donor"]
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """Responses, a row each, in the order of ``obs``.

    Attributes:
        obs: perturbation, cell_type_id, cell_type, donor, n_cells, n_controls; numbers are 0 where nobody says them.
        change: (rows, genes).
        control: (rows, genes), mean log1p(CP10k) of each row's control cells; None where there are none.
        genes: their symbols.
    """

    obs: pd.DataFrame
    change: Array
    control: Array | None
    genes: list[str]


def is_there(path: Path) -> bool:
    """Whether a file can be read; says so where it can't."""
    if not path.is_file():
        print(f"skipped: {path.name} is not under {DATA}; set GCA_BENCH_DATA to the folder that holds it")
    return path.is_file()


def drugs() -> Measured | None:
    """79 drugs x 4 types, normal scores of each gene's rank: to be compared by rank or Pearson, no fold changes."""
    if not is_there(DRUGS):
        return None
    found = ad.read_h5ad(DRUGS)
    obs = found.obs.astype(str).assign(donor=None, n_cells=0, n_controls=0).reset_index(drop=True)
    return Measured(obs, np.asarray(found.X, dtype=np.float64), None, found.var_names.astype(str).tolist())


def cytokine_signatures() -> pd.DataFrame | None:
    """Genes x 22 cytokines by the catalogue's names: mean log fold change over many experiments and cell types."""
    if not is_there(SIGNATURES):
        return None
    table = pd.read_csv(SIGNATURES, sep="\t", index_col=0)
    entries = {column: load_catalogue().resolve(column) for column in table}
    return table[[c for c, entry in entries.items() if entry]].rename(
        columns={c: entry.name for c, entry in entries.items() if entry}
    )


def cytokine_cells(signatures: pd.DataFrame, *, n_cells: int = 60, seed: int = 0) -> ad.AnnData | None:
    """Real control cells of three types, and as many with each cytokine's response worked in.

    The response is the same in every type; what differs is what a type expresses, and so can lose.
    """
    if not is_there(KANG):
        return None
    cells = ad.read_h5ad(KANG)
    cells = cells[(cells.obs["condition"] == "ctrl").to_numpy()]
    genes = [gene for gene in signatures.index if gene in set(cells.var_names)]
    rng = np.random.default_rng(seed)
    blocks, rows = [], []
    for label in CYTOKINE_TYPES:
        own = cells[(cells.obs["cell_type"] == label).to_numpy()][:, genes]
        picked = rng.choice(own.n_obs, size=min(own.n_obs, 4 * n_cells), replace=False)
        control = sp.csr_matrix(own.X[np.sort(picked)])
        means = np.asarray(log_normalise(control).mean(axis=0)).ravel()
        blocks.append(control)
        rows += [(CONTROL, label, KANG_TYPES[label])] * control.shape[0]
        for name in signatures:
            base = sp.csr_matrix(control[np.sort(rng.choice(control.shape[0], size=n_cells, replace=False))])
            before = np.asarray(log_normalise(base, dtype=np.float64).mean(axis=0)).ravel()
            rates = solve_rates(base, before, np.maximum(means + signatures.loc[genes, name].to_numpy(), 0.0))
            blocks.append(draw(base, rates, rng))
            rows += [(name, label, KANG_TYPES[label])] * n_cells
    return make_cells(
        sp.vstack(blocks), pd.DataFrame(rows, columns=["perturbation", "cell_type", "cell_type_id"]), genes
    )


def kang_cells() -> ad.AnnData | None:
    """Labelled cells of the three donors that have both conditions."""
    if not is_there(KANG):
        return None
    cells = ad.read_h5ad(KANG)
    cells = cells[cells.obs["cell_type"].notna() & cells.obs["donor"].astype(str).isin(PAIRED_DONORS)]
    obs = cells.obs[["cell_type", "donor"]].astype(str).reset_index(drop=True)
    obs["perturbation"] = (
        cells.obs["condition"].astype(str).map({"ctrl": CONTROL, "stim": "interferon beta"}).to_numpy()
    )
    return make_cells(cells.X, obs.assign(cell_type_id=obs["cell_type"].map(KANG_TYPES)), cells.var_names)


def bundled_cells() -> ad.AnnData:
    """The package's cells of the same experiment, of unnamed donors, with this project's own labels."""
    cells = kang2018_mini()
    cells = cells[cells.obs["cell_type_ontology_id"].notna().to_numpy()]
    obs = cells.obs[["cell_type", "cell_type_ontology_id"]].astype(str).set_axis(["cell_type", "cell_type_id"], axis=1)
    return make_cells(
        cells.X, obs.assign(perturbation=cells.obs["condition"].astype(str).map(KANG_CONDITIONS)), cells.var_names
    )


def make_cells(counts: object, obs: pd.DataFrame, genes: object) -> ad.AnnData:
    """Counts with their table, names made here: those of Kang's cells are unique only within a condition."""
    obs = obs.astype("category").set_axis([f"cell{i}" for i in range(len(obs))])
    var = pd.DataFrame(index=pd.Index(genes, dtype=str))
    return ad.AnnData(sp.csr_matrix(counts).astype(np.float32), obs=obs, var=var)


def measured(cells: ad.AnnData) -> Measured:
    """The response of each group of cells: mean log1p(CP10k) against the controls of its type and donor."""
    groups = [name for name in GROUP if name in cells.obs]
    table = cells.obs[groups].astype(str)
    keys, codes = np.unique(table.agg("\t".join, axis=1), return_inverse=True)
    sums = group_sums([log_normalise(cells.X, dtype=np.float64)], codes, len(keys)).inside()
    found = pd.DataFrame([key.split("\t") for key in keys], columns=groups).assign(n_cells=sums.n_cells)
    of_control: Mapping[tuple[str, ...], int] = {
        tuple(row[groups[1:]]): int(i) for i, row in found.iterrows() if row["perturbation"] == CONTROL
    }
    rows = [i for i, row in found.iterrows() if row["perturbation"] != CONTROL and tuple(row[groups[1:]]) in of_control]
    controls = [of_control[tuple(found.loc[i, groups[1:]])] for i in rows]
    obs = found.loc[rows].assign(n_controls=sums.n_cells[controls]).reindex(columns=[*GROUP, "n_cells", "n_controls"])
    return Measured(
        obs.reset_index(drop=True),
        sums.mean[rows] - sums.mean[controls],
        sums.mean[controls],
        cells.var_names.astype(str).tolist(),
    )
