"""Leiden clusters labelled offline, beside linear models and over-representation on the same markers.

Run with ``python benchmarks/annotation_peers.py``. Kang 2018, FACS-sorted blood and the human pancreas, and as
extra ones Kang's control and stimulated cells apart and the mouse pancreas, clustered with a fixed seed; in full at one
resolution, and in the mean at a lower and a higher one. The peers are methods of decoupler 2 on the positive markers of
the same database, over the types found in the tissue: ULM on each cell, with the type whose score stands out most in
the cluster against the rest (t-test), as decoupler's tutorials label clusters; and ULM and ORA on the t statistics of
the clusters' genes, with the type that scores highest, or whose markers its 100 top genes hold more often than by
chance, by the least p-value. ORA on each cell is left out, as it takes minutes.

Over cells: which share is right, related, wrong or unknown, and two figures. Accuracy counts a label as right that is
the authors' type, or lies above or below it on the Cell Ontology; macro-F1 is over the authors' types, with each label
mapped up to the authors' type it is, or lies below, and to none of them otherwise. ``Unknown or Novel`` is wrong by
both, which the peers never answer.
Intervals are 95 % of a paired bootstrap over clusters.

As a check on the annotator alone, cells drawn at random from a whole data set are put into a cluster of their own,
which should stay unknown, or else be called what most of its cells are.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import decoupler as dc
import numpy as np
import numpy.typing as npt
import pandas as pd
import scanpy as sc

from gca_core.annotation import annotate_anndata, load_marker_database
from gca_core.annotation.adata.embedding import cell_graph
from gca_core.annotation.adata.expression import read_expression
from gca_core.annotation.markers.build import bundled_mouse_symbols, mouse_symbol
from gca_core.annotation.markers.database import ANY_TISSUE, MarkerDatabase
from gca_core.annotation.markers.tissues import near_tissues
from gca_core.knowledge.bundled.ontology import load_ontology

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("GCA_BENCH_DATA", ROOT.parent / "shared" / "data")) / "cells"
KANG = "kang2018_ifnb_9069x14053_counts.h5ad"
FACS = "zheng_facs_800x32738_counts.h5ad"
BARON = "baron_350x12474_counts.h5ad"
RESOLUTION, OTHER_RESOLUTIONS = 1.0, (0.5, 2.0)
SEED, N_BOOTSTRAP = 0, 2000
ANNOTATOR = "this annotator"
PEERS = ("ULM, cells", "ULM, clusters", "ORA, clusters")
N_ORA = 100
N_MIXTURES, MIXTURE_SIZE = 20, 60

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CellSet:
    """Cells of one species and tissue with the authors' labels; ``extra`` ones are a part of another, or of mice."""

    name: str
    cells: ad.AnnData
    column: str
    tissue: str
    species: str = "human"
    extra: bool = False


@dataclass(frozen=True)
class Outcome:
    """What the clusters of one data set hold and what each method calls them.

    Attributes:
        counts: (n_clusters, n_types) cells of each authors' type.
        types: the authors' types, Cell Ontology ids.
        labels: by method, a Cell Ontology id per cluster, or None.
    """

    counts: Array
    types: tuple[str, ...]
    labels: dict[str, tuple[str | None, ...]]


def cell_sets() -> Iterator[CellSet]:
    """The data sets that are there; says which are not."""
    for file in (KANG, FACS, BARON):
        if not (DATA / file).is_file():
            print(f"skipped: {file} is not under {DATA}; set GCA_BENCH_DATA to the folder that holds cells/")
            continue
        cells = ad.read_h5ad(DATA / file)
        if file == KANG:
            cells.obs_names_make_unique()
            yield CellSet("Kang", cells, "cell_type", "blood")
            for condition, name in (("ctrl", "control"), ("stim", "stimulated")):
                part = cells[cells.obs["condition"] == condition].copy()
                yield CellSet(f"Kang, {name}", part, "cell_type", "blood", extra=True)
        elif file == FACS:
            yield CellSet("FACS-sorted blood", cells, "cell_type", "blood")
        else:
            yield CellSet("pancreas, human", cells[cells.obs["Batch"] == "human"].copy(), "Group", "pancreas")
            yield CellSet("pancreas, mouse", _as_mouse(cells), "Group", "pancreas", "mouse", extra=True)


def _as_mouse(cells: ad.AnnData) -> ad.AnnData:
    """The mouse cells under mouse symbols; the file names their genes by the human ones."""
    found = cells[cells.obs["Batch"] == "mouse"].copy()
    spelled = bundled_mouse_symbols()
    found.var_names = [mouse_symbol(gene, spelled) or gene for gene in found.var_names]
    found.var_names_make_unique()
    return found


def marker_network(database: MarkerDatabase, tissue: str) -> pd.DataFrame:
    """The positive markers of the types found in a tissue as decoupler takes them."""
    near = near_tissues(tissue)
    return pd.DataFrame(
        [
            (t.ontology_id, gene, score)
            for t in database.types
            if near & t.tissues or ANY_TISSUE in t.tissues
            for gene, score in t.positive.items()
        ],
        columns=["source", "target", "weight"],
    )


def peer_labels(cells: ad.AnnData, net: pd.DataFrame) -> dict[str, dict[str, str]]:
    """By peer, the type of each cluster."""
    dc.mt.ulm(data=cells, net=net, tmin=3)
    scores = dc.pp.get_obsm(cells, key="score_ulm")
    table = dc.tl.rankby_group(scores, groupby="cluster", reference="rest", method="t-test_overestim_var")
    best = table[table["stat"] > 0].sort_values("stat", ascending=False).drop_duplicates("group")
    found = {PEERS[0]: dict(zip(best["group"].astype(str), best["name"].astype(str), strict=True))}
    sc.tl.rank_genes_groups(cells, "cluster", method="t-test_overestim_var")
    ranked = sc.get.rank_genes_groups_df(cells, None)
    statistics = ranked.pivot(index="group", columns="names", values="scores").fillna(0.0)
    statistics = statistics.loc[:, (statistics != 0).any()]
    linear, _ = dc.mt.ulm(data=statistics, net=net, tmin=3)
    # in 2.2.0 n_up is the number of features below the top ones, whatever its description says
    odds, chance = dc.mt.ora(data=statistics, net=net, tmin=3, n_up=statistics.shape[1] - N_ORA)
    for peer, table in zip(PEERS[1:], (linear, -np.log10(chance.clip(lower=1e-300)) * np.sign(odds)), strict=True):
        found[peer] = {str(cluster): str(row.idxmax()) for cluster, row in table.iterrows()}
    return found


def run(cell_set: CellSet, tissue: str | None, resolution: float) -> Outcome:
    """Cluster, label by all methods, and count the authors' types in each cluster."""
    ontology, database = load_ontology(), load_marker_database(species=cell_set.species)
    expression = read_expression(cell_set.cells, database, species=cell_set.species)
    cells = cell_set.cells.copy()
    cells.obs["cluster"] = cell_graph(expression, SEED).leiden(resolution=resolution, seed=SEED).astype(str)
    report = annotate_anndata(cells, "cluster", species=cell_set.species, tissue=tissue)
    names = [a.cluster for a in report.annotations]
    labels = {ANNOTATOR: tuple(a.ontology_id for a in report.annotations)}
    normalised = ad.AnnData(
        X=expression.matrix, obs=cells.obs[["cluster"]], var=pd.DataFrame(index=list(expression.genes))
    )
    for peer, found in peer_labels(normalised, marker_network(database, cell_set.tissue)).items():
        labels[peer] = tuple(found.get(name) for name in names)
    truth = cells.obs[cell_set.column].astype(str).map(ontology.resolve)
    types = tuple(sorted(truth.dropna().unique()))
    table = pd.crosstab(cells.obs["cluster"].astype(str), truth).reindex(index=names, columns=types, fill_value=0)
    return Outcome(table.to_numpy(dtype=float), types, labels)


def related(label: str | None, kind: str) -> bool:
    """Whether a label is a type, or lies above or below it."""
    ontology = load_ontology()
    return label is not None and (ontology.is_a(label, kind) or ontology.is_a(kind, label))


def authors_level(label: str | None, types: tuple[str, ...]) -> int:
    """The position of the authors' type that a label is or lies below, the nearest; -1 where there is none."""
    if label is None:
        return -1
    ontology = load_ontology()
    steps = {label: 0} | dict(ontology.ancestors(label))
    near = [(steps[kind], i) for i, kind in enumerate(types) if kind in steps]
    return min(near)[1] if near else -1


def figures(outcome: Outcome, method: str, weights: Array) -> tuple[Array, Array]:
    """Accuracy and macro-F1 (b,) for weights (b, n_clusters) of the clusters."""
    labels = outcome.labels[method]
    right = np.array([[related(label, kind) for kind in outcome.types] for label in labels], dtype=float)
    n_cells = weights @ outcome.counts.sum(axis=1)
    accuracy = weights @ (right * outcome.counts).sum(axis=1) / n_cells
    level = np.array([authors_level(label, outcome.types) for label in labels])
    scores, present = [], []
    for j in range(len(outcome.types)):
        called = level == j
        hit = weights[:, called] @ outcome.counts[called, j]
        size = weights[:, called] @ outcome.counts[called].sum(axis=1) + weights @ outcome.counts[:, j]
        scores.append(np.divide(2 * hit, size, out=np.zeros_like(hit), where=size > 0))
        present.append(weights @ outcome.counts[:, j] > 0)
    counted = np.array(present)
    return accuracy, (np.array(scores) * counted).sum(axis=0) / np.maximum(counted.sum(axis=0), 1)


def shares(outcome: Outcome, method: str) -> tuple[float, float, float, float]:
    """Shares of cells whose label is the authors' type, lies above or below it, is wrong, or is unknown."""
    found = np.zeros(4)
    for label, row in zip(outcome.labels[method], outcome.counts, strict=True):
        for kind, n in zip(outcome.types, row, strict=True):
            found[3 if label is None else 0 if label == kind else 1 if related(label, kind) else 2] += n
    right, near, wrong, unknown = (found / found.sum()).tolist()
    return right, near, wrong, unknown


def draws(n: int, rng: np.random.Generator) -> Array:
    """(b + 1, n) how often each cluster is drawn: first each once, then with replacement."""
    return np.vstack([np.ones(n), rng.multinomial(n, np.full(n, 1.0 / n), size=N_BOOTSTRAP)])


def interval(values: Array) -> str:
    """The first value and the 2.5th and 97.5th percentile of the others."""
    low, high = np.percentile(values[1:], [2.5, 97.5])
    return f"{values[0]:+.3f} [{low:+.3f}, {high:+.3f}]"


def bench_peers(tissues: bool = True) -> None:
    """Print the figures of all data sets and methods, and the differences with their intervals."""
    print(f"clusters (Leiden, resolution {RESOLUTION:g}, seed {SEED}), tissue {'named' if tissues else 'not named'}")
    sets = list(cell_sets())
    for resolution in (RESOLUTION, *OTHER_RESOLUTIONS):
        rng = np.random.default_rng(SEED)
        gains: dict[str, list[tuple[bool, Array]]] = {peer: [] for peer in PEERS}
        for cell_set in sets:
            outcome = run(cell_set, cell_set.tissue if tissues else None, resolution)
            weights = draws(len(outcome.counts), rng)
            found = {method: np.array(figures(outcome, method, weights)) for method in outcome.labels}
            for peer in PEERS:
                gains[peer].append((cell_set.extra, found[ANNOTATOR] - found[peer]))
            if resolution == RESOLUTION:
                print_set(cell_set, outcome, found)
        print_means(gains, resolution)


def bench_mixtures() -> None:
    """Print what becomes of clusters of cells that were drawn at random, a sixth of all cells at most."""
    ontology, rng = load_ontology(), np.random.default_rng(SEED)
    for cell_set in cell_sets():
        if cell_set.extra:
            continue
        expression = read_expression(cell_set.cells, load_marker_database())
        clusters = cell_graph(expression, SEED).leiden(resolution=RESOLUTION, seed=SEED).astype(str)
        truth = cell_set.cells.obs[cell_set.column].astype(str).map(ontology.resolve).to_numpy()
        unknown, fair = 0, 0
        for _ in range(N_MIXTURES):
            drawn = rng.choice(len(truth), min(MIXTURE_SIZE, len(truth) // 6), replace=False)
            names = np.array(clusters, dtype=object)
            names[drawn] = "mixture"
            cells = ad.AnnData(expression.matrix, obs=pd.DataFrame({"k": names}, index=cell_set.cells.obs_names))
            cells.var_names = list(expression.genes)
            report = annotate_anndata(cells, "k", tissue=cell_set.tissue)
            label = next(a.ontology_id for a in report.annotations if a.cluster == "mixture")
            unknown += label is None
            fair += label is not None and np.mean([related(label, kind) for kind in truth[drawn] if kind]) > 0.5
        of = f"{cell_set.name}: of {N_MIXTURES} random mixtures"
        print(f"{of} {unknown} stay unknown, {fair} are called what most of their cells are")


def print_set(cell_set: CellSet, outcome: Outcome, found: Mapping[str, Array]) -> None:
    """Print the figures of each method on one data set."""
    print(f"{cell_set.name}: {int(outcome.counts.sum())} cells, {len(outcome.counts)} clusters", flush=True)
    for method, (_, f1) in found.items():
        each = " ".join(f"{share:.3f}" for share in shares(outcome, method))
        print(f"  {method:<16}right, related, wrong, unknown {each}  macro-F1 {f1[0]:.3f}", end="")
        if method != ANNOTATOR:
            more_accurate, more_f1 = found[ANNOTATOR] - found[method]
            print(f"  ahead by {interval(more_accurate)} and {interval(more_f1)}", end="")
        print()


def print_means(gains: Mapping[str, list[tuple[bool, Array]]], resolution: float) -> None:
    """Print how far the annotator is ahead of each peer in the mean, without and with the extra sets."""
    for extra in (False, True):
        for peer, each in gains.items():
            counted = [gain for is_extra, gain in each if extra or not is_extra]
            if counted:
                accuracy, f1 = np.mean(counted, axis=0)
                what = f"{len(counted)} sets{', extra ones too' if extra else ''}, resolution {resolution:g}"
                print(f"mean of {what}, ahead of {peer}: accuracy {interval(accuracy)}, macro-F1 {interval(f1)}")


def main() -> None:
    logging.basicConfig(level=logging.ERROR)
    warnings.simplefilter("ignore")
    bench_peers()
    bench_mixtures()


if __name__ == "__main__":
    main()
