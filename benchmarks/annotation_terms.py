"""What each constant of the score and of the labels gains, on published lists and on clusters of development cells.

Each is switched off, or set to what would spare it, all others left as they are; the means' intervals are 95 % of a
paired bootstrap over clusters, and over data sets at three resolutions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import pandas as pd
from annotation_peers import OTHER_RESOLUTIONS, RESOLUTION, SEED, CellSet, Outcome, cell_sets, figures
from annotation_published import DATA, best_guess, overlap_markers, paired
from published_clusters import FOLDER, LabelTable, PublishedCluster, annotate_published, as_markers, read_clusters

from gca_core.annotation import load_marker_database
from gca_core.annotation.adata.embedding import cell_graph
from gca_core.annotation.adata.expression import read_expression
from gca_core.annotation.adata.ranking import rank_clusters
from gca_core.annotation.labels import offline
from gca_core.annotation.markers.database import symbol_aliases
from gca_core.annotation.scoring import evidence, marker_model
from gca_core.annotation.scoring.parameters import DEPTH, TOP_N_MARKERS
from gca_core.knowledge.bundled.ontology import load_ontology

Array = npt.NDArray[np.float64]
# what is switched off, and how
TERMS: tuple[tuple[str, Any], ...] = (
    ("FOREIGN_TISSUE", 1.0),
    ("INHERITED", 0.0),
    ("genes_that_go_together", lambda _: ()),
    ("SEEN", 0.0),
    ("SUBTYPE", np.inf),
    ("SUBTYPE", 0.0),
    ("DOUBT", 1.0),
    ("NOTABLE", 1e-9),
)


@contextmanager
def changed(**values: Any) -> Iterator[None]:
    """The scoring with other constants."""
    with ExitStack() as stack:
        for name, value in values.items():
            for module in (marker_model, evidence, offline):
                if hasattr(module, name):
                    stack.enter_context(patch.object(module, name, value))
        marker_model._model.cache_clear()
        yield
    marker_model._model.cache_clear()


def agreements(table: LabelTable, clusters: Sequence[PublishedCluster]) -> Array:
    """Agreement of the best guess for each published cluster."""
    found = annotate_published(clusters, load_marker_database())
    return np.array([table.agreement(best_guess(a), c.manual) for a, c in zip(found, clusters, strict=True)])


class Clusters:
    """One data set's Leiden clusters, ranked, with what the authors call their cells."""

    def __init__(self, cells: CellSet, resolution: float) -> None:
        self.cells, self.database = cells, load_marker_database(species=cells.species)
        expression = read_expression(cells.cells, self.database, species=cells.species)
        codes = cell_graph(expression, SEED).leiden(resolution=resolution, seed=SEED)
        names = [str(i) for i in range(codes.max() + 1)]
        groups = pd.Series(pd.Categorical.from_codes(codes, names), index=cells.cells.obs_names)
        self.sums, self.genes = expression.sums(codes, len(names)), expression.genes
        n_top = DEPTH * TOP_N_MARKERS
        self.ranked = rank_clusters(expression, groups, self.sums, n_top, "t-test_overestim_var")
        truth = cells.cells.obs[cells.column].astype(str).map(load_ontology().resolve)
        self.table = pd.crosstab(groups, truth).reindex(names).fillna(0.0)

    def scores(self) -> tuple[float, float, float]:
        """Shares of cells that are exactly right, and right or related, and the macro-F1."""
        model = marker_model.build_model(self.database, self.genes, load_ontology(), tissue=self.cells.tissue)
        weighed = evidence.weigh_expression(SimpleNamespace(genes=self.genes), self.sums, model)  # type: ignore[arg-type]
        ranked = [evidence.first_informative(cluster, model, TOP_N_MARKERS) for cluster in self.ranked]
        found = offline.annotate_clusters(ranked, weighed, model, load_ontology())
        labels = tuple(a.ontology_id for a in found)
        counts, types = self.table.to_numpy(dtype=float), tuple(self.table.columns)
        exact = sum(row[types.index(x)] for x, row in zip(labels, counts, strict=True) if x in types) / counts.sum()
        (accuracy,), (f1,) = figures(Outcome(counts, types, {"": labels}), "", np.ones((1, len(labels))))
        return float(exact), float(accuracy), float(f1)


def bench_terms() -> None:
    """Print the gain of each term, on lists looked up by id, and on clusters of cells."""
    folder = DATA / FOLDER
    if not folder.is_dir():
        print(f"skipped: there is no {folder}; set GCA_BENCH_DATA to the folder that holds {FOLDER}/")
        return
    clusters, table = read_clusters(folder), LabelTable(folder, load_ontology(), by="id")
    sets = [Clusters(cells, r) for cells in cell_sets() for r in (RESOLUTION, *OTHER_RESOLUTIONS)]
    lists, cells = agreements(table, clusters), np.array([s.scores() for s in sets])
    print("gain of each term: mean agreement on lists; exact, accuracy and macro-F1 on clusters of cells")
    for name, off in TERMS:
        with changed(**{name: off}):
            without, there = agreements(table, clusters), np.array([s.scores() for s in sets])
        gains = "   ".join(paired(column) for column in (cells - there).T)
        told = "off" if callable(off) else f"{off:g}"
        print(f"  {name + ' ' + told:<28}{paired(lists - without)}   {gains}", flush=True)
    cross_validate(table, clusters)


def cross_validate(table: LabelTable, clusters: Sequence[PublishedCluster]) -> None:
    """Print the score of two factors that were chosen on four fifths of the lists, on the fifth."""
    grid = []
    for foreign in (1.0, 0.85, 0.7, 0.5):
        for inherited in (0.0, 0.3):
            with changed(FOREIGN_TISSUE=foreign, INHERITED=inherited):
                grid.append(agreements(table, clusters))
    fold = np.random.default_rng(0).integers(0, 5, len(clusters))
    unseen = np.zeros(len(clusters))
    for k in range(5):
        unseen[fold == k] = max(grid, key=lambda row, k=k: float(row[fold != k].mean()))[fold == k]
    names = {str(i): tuple(r.gene for r in m.genes) for i, m in enumerate(as_markers(clusters, symbol_aliases()))}
    overlap = [
        None if term is None else load_ontology().label(term)
        for term in overlap_markers(load_marker_database(), names).values()
    ]
    pairs = zip(overlap, clusters, strict=True)
    plain = np.array([0.0 if label is None else table.agreement(label, c.manual) for label, c in pairs])
    ahead = paired(unseen - plain)
    print(f"  both factors cross-validated: {unseen.mean():.3f}, ahead of the plain overlap by {ahead}")
