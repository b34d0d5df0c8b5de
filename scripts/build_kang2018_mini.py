"""Build gca_core/datasets/data/kang2018_mini.h5ad from the public counts of GSE96583.

Read are the counts, the gene symbols and the column ``condition`` (ctrl or stim), nothing else. Each cell is
labelled by this project's own annotator, one condition at a time; cells in doubt get no label. Then genes are
chosen by detection rate and cells by label and condition, at random with a fixed seed. The same input gives
the same bytes.

    python scripts/build_kang2018_mini.py kang2018_counts.h5ad
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from manifest import update_manifest

from gca_core.annotation.labels.single_cells import annotate_cells
from gca_core.annotation.markers.load import load_marker_database
from gca_core.knowledge.bundled.ontology import load_ontology
from gca_core.matrix.files.anndata_io import write_elem
from gca_core.matrix.places import require_counts

TARGET = Path(__file__).resolve().parent.parent / "gca_core/datasets/data/kang2018_mini.h5ad"
SEED = 0
N_GENES = 5500
MAX_BYTES = 3_000_000
CITATION = (
    "Kang HM et al. Multiplexed droplet single-cell RNA-sequencing using natural genetic variation. "
    "Nat Biotechnol 2018;36:89-94. GEO GSE96583."
)
# cell type to the most cells kept per condition
CELLS = {
    "CL:0002057": 560,
    "CL:0002396": 700,
    "CL:0000624": 290,
    "CL:0000625": 130,
    "CL:0000623": 130,
    "CL:0000236": 150,
    "CL:0000451": 70,
    "CL:0000556": 60,
}
CHUNK = 1 << 18
UNLABELLED = 70


def label(adata: ad.AnnData) -> ad.AnnData:
    """The cells with the annotator's labels; conditions are labelled one by one."""
    parts = []
    for condition in ("ctrl", "stim"):
        part = adata[adata.obs["condition"] == condition]
        found = annotate_cells(part.copy(), tissue="blood", cell_types=list(CELLS), seed=SEED)
        parts.append(found)
    found = pd.concat(parts).loc[adata.obs_names]
    adata.obs["cell_type"] = pd.Categorical(found["label"])
    adata.obs["cell_type_ontology_id"] = pd.Categorical(found["ontology_id"])
    adata.obs["cell_type_margin"] = found["margin"].round(4).astype(np.float32)
    return adata


def choose_cells(obs: pd.DataFrame) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Positions of the cells kept, in file order."""
    rng = np.random.default_rng(SEED)
    kept = []
    for condition in ("ctrl", "stim"):
        here = (obs["condition"] == condition).to_numpy()
        for term, most in [*CELLS.items(), (None, UNLABELLED)]:
            of_type = obs["cell_type_ontology_id"].isna() if term is None else obs["cell_type_ontology_id"] == term
            cells = np.flatnonzero(here & of_type.to_numpy())
            kept.append(rng.permutation(cells)[:most])
    return np.sort(np.concatenate(kept))


def choose_genes(adata: ad.AnnData, n: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Positions of the ``n`` genes found in the largest share of cells of either condition, the commonest first."""
    found = require_counts(adata) > 0
    shares = [
        np.asarray(found[(adata.obs["condition"] == c).to_numpy()].mean(axis=0)).ravel() for c in ("ctrl", "stim")
    ]
    return np.argsort(-np.maximum(*shares), kind="stable")[:n]


def write(adata: ad.AnnData, path: Path) -> None:
    """Write h5ad with fixed compression and no timestamps."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    options = {"compression": "gzip", "compression_opts": 9}
    with h5py.File(path, "w") as file:
        write_elem(file, "/", ad.AnnData(obs=adata.obs, var=adata.var, uns=adata.uns), dataset_kwargs=options)
        # anndata 0.10 can't read the mark of what is absent
        file.pop("raw", None)
        # these make the counts compress twice as well; scalars of uns don't take them
        better = {"shuffle": True, "chunks": (CHUNK,), "track_times": False}
        write_elem(file, "X", adata.X, dataset_kwargs=options | better)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("counts", type=Path, help="h5ad with raw counts in X and the column condition in obs")
    parser.add_argument("--output", type=Path, default=TARGET)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    full = ad.read_h5ad(arguments.counts)
    condition = full.obs["condition"].astype(str)
    obs = pd.DataFrame({"condition": pd.Categorical(condition)}, index=full.obs_names)
    bare = ad.AnnData(X=require_counts(full), obs=obs, var=pd.DataFrame(index=pd.Index(full.var_names, name=None)))
    if not bare.obs_names.is_unique:
        raise SystemExit("cell names are not unique; put the condition before each")
    labelled = label(bare)
    mini = labelled[choose_cells(labelled.obs)]
    mini = mini[:, choose_genes(mini, N_GENES)].copy()
    mini.X = mini.X.astype(np.int32)
    mini.X.sort_indices()
    for column in ("cell_type", "cell_type_ontology_id"):
        mini.obs[column] = mini.obs[column].cat.remove_unused_categories()
    mini.uns["gca"] = {
        "labelled_by": "gca_core.annotation.annotate_cells, each condition on its own; cells in doubt have no label",
        "marker_database_sha256": load_marker_database().content_hash,
        "cell_ontology": load_ontology().version,
        "source": "GEO GSE96583 (counts and condition)",
        "citation": CITATION,
    }
    write(mini, arguments.output)
    size = arguments.output.stat().st_size
    print(pd.crosstab(mini.obs["cell_type"].astype(object).fillna("no label"), mini.obs["condition"]))
    print(f"{mini.n_obs} cells x {mini.n_vars} genes, {size:,} bytes")
    if size > MAX_BYTES:
        raise SystemExit(f"the file is larger than {MAX_BYTES:,} bytes")
    update_manifest(
        arguments.output,
        description=f"PBMC with and without interferon beta: counts of {mini.n_obs:,} cells x {mini.n_vars:,} genes; "
        "cell types are this project's own annotation, not the authors'",
        source="NCBI GEO GSE96583; subset by scripts/build_kang2018_mini.py",
        licence="public data of NCBI GEO; cite the source",
        citation=CITATION,
    )


if __name__ == "__main__":
    main()
