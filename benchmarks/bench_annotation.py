"""The offline annotator against labels that others gave, beside a plain overlap of markers.

Run with ``python benchmarks/bench_annotation.py``. The PBMC of the scanpy wheel are always there; the other
data sets are looked for under GCA_BENCH_DATA (default ../shared/data) and skipped where they aren't. Options are
the defaults. Two things were tuned on what is measured here: scores and calibration on the half of the published
clusters that isn't reported on, and the thresholds for subtypes on the PBMC of the scanpy wheel, whose figures are
therefore optimistic.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from annotation_peers import bench_mixtures, bench_peers
from annotation_published import bench_published, overlap_markers
from annotation_terms import bench_terms

from gca_core.annotation import annotate_anndata, annotate_cells, load_marker_database
from gca_core.annotation.adata.embedding import cell_graph
from gca_core.annotation.adata.expression import read_expression
from gca_core.annotation.labels.agreement import measure_agreement
from gca_core.annotation.markers.database import MarkerDatabase
from gca_core.datasets import kang2018_mini, pbmc68k_reduced
from gca_core.knowledge.bundled.ontology import load_ontology
from gca_core.matrix.compare import de_overlap, log_fold_change, pearson

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("GCA_BENCH_DATA", ROOT.parent / "shared" / "data")) / "cells"
KANG = "kang2018_ifnb_9069x14053_counts.h5ad"
FACS = "zheng_facs_800x32738_counts.h5ad"
BARON = "baron_350x12474_counts.h5ad"
CLASSICAL, NON_CLASSICAL = "CL:0002057", "CL:0002396"
DEPTHS = (5, 10, 20, 30, 40, 50)
PBMC_TYPES = (
    CLASSICAL,
    NON_CLASSICAL,
    "CL:0000624",
    "CL:0000625",
    "CL:0000623",
    "CL:0000236",
    "CL:0000451",
    "CL:0000556",
)


def read(name: str) -> ad.AnnData | None:
    """A benchmark data set, or None, saying so."""
    if not (DATA / name).is_file():
        print(f"skipped: {name} is not under {DATA}; set GCA_BENCH_DATA to the folder that holds cells/")
        return None
    return ad.read_h5ad(DATA / name)


def overlap_cells(adata: ad.AnnData, database: MarkerDatabase, candidates: tuple[str, ...]) -> pd.Series:
    """The candidate with the largest share of its own markers detected in each cell."""
    expression = read_expression(adata, database)
    column = {gene: j for j, gene in enumerate(expression.genes)}
    scores = []
    for identifier in candidates:
        cell_type = database.get(identifier)
        genes = [column[g] for g in (cell_type.positive if cell_type else {}) if g in column]
        scores.append(np.asarray((expression.matrix[:, genes] > 0).mean(axis=1)).ravel())
    best = np.argmax(np.array(scores), axis=0)
    return pd.Series([candidates[i] for i in best], index=adata.obs_names)


def known_terms(labels: pd.Series) -> pd.Series:
    """The Cell Ontology ids of the authors' labels."""
    ontology = load_ontology()
    return labels.astype(str).map(ontology.resolve)


def bench_cells(name: str, adata: ad.AnnData, column: str) -> pd.DataFrame:
    """Print one line per data set on single cells; returns the annotator's table."""
    ontology, database = load_ontology(), load_marker_database()
    found = annotate_cells(adata, tissue="blood", cell_types=PBMC_TYPES)
    known = known_terms(adata.obs[column])
    labelled = found["ontology_id"].notna()
    proposed = found["proposed_label"].map(ontology.resolve)
    right = {
        "labelled cells": (found["ontology_id"] == known)[labelled].mean(),
        "all, best guess": (proposed == known).mean(),
        "overlap": (overlap_cells(adata, database, PBMC_TYPES) == known).mean(),
    }
    figures = "  ".join(f"{what} {100 * share:5.1f}" for what, share in right.items())
    print(f"{name:<22}{adata.n_obs:>6} cells  labelled {100 * labelled.mean():5.1f}  right, %: {figures}")
    return found


def print_confusion(found: pd.DataFrame, adata: ad.AnnData, column: str) -> None:
    """The authors' labels against the annotator's, cells."""
    short = found["label"].fillna("no label").str.replace("-positive", "+").str.slice(0, 18)
    print(pd.crosstab(adata.obs[column].astype(str), short).to_string(), end="\n\n")


def bench_clusters(name: str, adata: ad.AnnData, column: str, cluster_key: str | None, tissue: str | None) -> None:
    """Print one line per data set on clusters, for the annotator and for the overlap."""
    ontology, database = load_ontology(), load_marker_database()
    report = annotate_anndata(adata, cluster_key, tissue=tissue, labels_key=column)
    markers = {a.cluster: a.markers for a in report.annotations}
    baseline = overlap_markers(database, markers)
    clusters = adata.obs[report.cluster_key].astype(str)
    plain = measure_agreement(clusters.map(baseline), adata.obs[column], ontology, clusters=clusters)
    for what, a in (("annotator", report.agreement), ("overlap", plain)):
        assert a is not None
        figures = f"exact {100 * a.exact:5.1f}  related {100 * a.related:5.1f}  close {100 * a.close:5.1f}"
        by_cluster = f"clusters ({a.n_clusters}), %: related {100 * a.clusters_related:5.1f}"
        print(f"{name:<26}{what:<11}cells, %: {figures}  {by_cluster}")


def bench_depth(kang: ad.AnnData | None) -> None:
    """How many top genes serve best: share of cells with a related label, where the clusters are always the same."""
    sets = {"pbmc68k, louvain": (pbmc68k_reduced(), "louvain", "bulk_labels")}
    if kang is not None:
        for condition, part in conditions(kang):
            expression = read_expression(part, load_marker_database())
            part.obs["leiden"] = cell_graph(expression, 0).leiden(resolution=1.0, seed=0)
            sets[f"Kang {condition}"] = (part, "leiden", "cell_type")
    print("top genes that are looked at, and the share of cells with a related label, %")
    for name, (cells, key, column) in sets.items():
        line = f"{name:<20}"
        for n in DEPTHS:
            report = annotate_anndata(cells, key, tissue="blood", labels_key=column, top_n_markers=n)
            assert report.agreement is not None
            line += f"  {n:>3}: {100 * report.agreement.related:5.1f}"
        print(line)


def bench_mini(authors: pd.Series | None) -> None:
    """How well each type's response predicts that of classical monocytes, and which cells hide in each group."""
    mini = kang2018_mini()
    ontology = load_ontology()
    stim = (mini.obs["condition"] == "stim").to_numpy()
    ids = mini.obs["cell_type_ontology_id"].astype(object)
    responses = {}
    for identifier in sorted(ids.dropna().unique()):
        cells = (ids == identifier).to_numpy()
        responses[identifier] = log_fold_change(mini.X[cells & stim], mini.X[cells & ~stim])
    truth = responses[CLASSICAL]
    known = None if authors is None else known_terms(authors.reindex(mini.obs_names))
    print("kang2018_mini: response of each type against that of CD14+ monocytes")
    for identifier, response in responses.items():
        line = f"  {ontology.label(identifier):<48} Pearson {pearson(response, truth):.3f}  overlap@50 "
        line += f"{de_overlap(response, truth):.2f}"
        if known is not None:
            hidden = [int(((ids == identifier) & (known == CLASSICAL) & (stim == s)).sum()) for s in (False, True)]
            size = [int(((ids == identifier) & (stim == s)).sum()) for s in (False, True)]
            line += f"  authors' CD14+ monocytes: {hidden[0]}/{size[0]} control, {hidden[1]}/{size[1]} stimulated"
        print(line)
    others = np.mean([r for i, r in responses.items() if i != CLASSICAL], axis=0)
    print(
        f"  {'mean of all others':<48} Pearson {pearson(others, truth):.3f}  overlap@50 {de_overlap(others, truth):.2f}"
    )


def conditions(kang: ad.AnnData) -> Iterator[tuple[str, ad.AnnData]]:
    """The Kang cells by condition, which is how the bundled file was labelled."""
    for condition in ("ctrl", "stim"):
        yield condition, kang[kang.obs["condition"] == condition].copy()


def main() -> None:
    logging.basicConfig(level=logging.WARNING)
    warnings.simplefilter("ignore")
    bench_published()
    bench_terms()
    kang, facs, baron = read(KANG), read(FACS), read(BARON)
    print("single cells, eight types of blood")
    if kang is not None:
        for condition, part in conditions(kang):
            print_confusion(bench_cells(f"Kang {condition}", part, "cell_type"), part, "cell_type")
    if facs is not None:
        print_confusion(bench_cells("FACS", facs, "cell_type"), facs, "cell_type")
    print("clusters, all cell types of the database")
    bench_clusters("pbmc68k, louvain", pbmc68k_reduced(), "bulk_labels", "louvain", "blood")
    bench_clusters("pbmc68k, computed", pbmc68k_reduced(), "bulk_labels", None, "blood")
    bench_clusters("pbmc68k, known groups", pbmc68k_reduced(), "bulk_labels", "bulk_labels", "blood")
    if kang is not None:
        for condition, part in conditions(kang):
            bench_clusters(f"Kang {condition}, computed", part, "cell_type", None, "blood")
    if facs is not None:
        bench_clusters("FACS, computed", facs, "cell_type", None, "blood")
    if baron is not None:
        human = baron[baron.obs["Batch"] == "human"].copy()
        bench_clusters("Baron human, computed", human, "Group", None, "pancreas")
        bench_clusters("Baron human, known groups", human, "Group", "Group", None)
    bench_depth(kang)
    bench_peers()
    bench_mixtures()
    bench_mini(None if kang is None else kang.obs["cell_type"])


if __name__ == "__main__":
    main()
