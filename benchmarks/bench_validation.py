"""How well wrong labels are told from right ones: each group's own label, and those of all other groups on it.

Run with ``python benchmarks/bench_validation.py``. The PBMC of the scanpy wheel are always there; the others are
looked for under GCA_BENCH_DATA (default ../shared/data) and skipped where they aren't. Options are the defaults, and
nothing is tuned here.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections import Counter
from pathlib import Path

import anndata as ad

from gca_core.annotation.inputs import resolve
from gca_core.annotation.labels.given import GivenLabel, LabelValidator
from gca_core.annotation.labels.labelling import label_clusters
from gca_core.annotation.pipeline import rank_and_weigh
from gca_core.annotation.scoring.parameters import MIN_OVERLAP
from gca_core.datasets import pbmc68k_reduced
from gca_core.knowledge.bundled.ontology import CellOntology, load_ontology

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("GCA_BENCH_DATA", ROOT.parent / "shared" / "data")) / "cells"
# paths through a common ancestor of this length and less join kinds of one lineage, such as T cells
NEAR = 4


def relation(a: str, b: str, ontology: CellOntology) -> str:
    """How two terms lie to each other: on one line, near, or far."""
    if ontology.is_a(a, b) or ontology.is_a(b, a):
        return "on one line"
    distance = ontology.distance(a, b)
    return "near" if distance is not None and distance <= NEAR else "far"


def bench(name: str, adata: ad.AnnData, column: str, tissue: str) -> None:
    """Print how many labels are flagged, right ones and those of other groups."""
    ontology = load_ontology()
    ranked = rank_and_weigh(adata, *resolve(cluster_key=column, tissue=tissue))
    alone, _ = label_clusters(ranked.clusters, ranked.weighed, ranked.knowledge, None, min_overlap=MIN_OVERLAP)
    judge = LabelValidator(
        ranked.knowledge.model,
        ontology,
        ranked.weighed,
        alone,
        min_overlap=MIN_OVERLAP,
        ids_given=False,
        elsewhere=frozenset(),
        borrowed=False,
    )
    terms = {c.cluster: ontology.resolve(c.cluster) for c in ranked.clusters}
    asked: Counter[str] = Counter()
    flagged: Counter[str] = Counter()
    for i, cluster in enumerate(ranked.clusters):
        own = terms[cluster.cluster]
        for label, term in terms.items():
            if own is None or term is None:
                continue
            kind = "right" if label == cluster.cluster else relation(own, term, ontology)
            asked[kind] += 1
            flagged[kind] += bool(judge.judge(i, cluster, GivenLabel(label, None, 1, 1)).flag_reasons)
    figures = "  ".join(f"{kind} {flagged[kind]} of {asked[kind]}" for kind in ("right", "on one line", "near", "far"))
    print(f"{name:<34}flagged: {figures}")


def main() -> None:
    """All data sets that are there."""
    warnings.simplefilter("ignore")
    logging.basicConfig(level=logging.ERROR)
    bench("pbmc68k_reduced", pbmc68k_reduced(), "bulk_labels", "blood")
    kang = DATA / "kang2018_ifnb_9069x14053_counts.h5ad"
    baron = DATA / "baron_350x12474_counts.h5ad"
    for path in (kang, baron):
        if not path.is_file():
            print(f"skipped: {path.name} is not under {DATA}; set GCA_BENCH_DATA to the folder that holds cells/")
    if kang.is_file():
        cells = ad.read_h5ad(kang)
        for condition in ("ctrl", "stim"):
            bench(f"Kang 2018, {condition}", cells[cells.obs["condition"] == condition].copy(), "cell_type", "blood")
    if baron.is_file():
        cells = ad.read_h5ad(baron)
        bench("human pancreas", cells[cells.obs["Batch"] == "human"].copy(), "Group", "pancreas")


if __name__ == "__main__":
    main()
