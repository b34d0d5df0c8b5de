"""The dot plot of a report: the markers that decided, over the clusters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from gca_core.annotation.models import UNKNOWN, Annotation, DatasetReport
from gca_core.annotation.report.drawing import DPI, legible, new_figure, png_bytes
from gca_core.annotation.report.palette import shown_label
from gca_core.annotation.scoring.marker_model import Array
from gca_core.matrix.stats import group_sums

if TYPE_CHECKING:
    from gca_core.annotation.adata.expression import Expression

MAX_GENES = 60
MAX_CLUSTERS = 60
MAX_PER_LABEL = 5
MANY_GENES = 40


@dataclass(frozen=True)
class MarkerExpression:
    """Expression of g genes in c clusters.

    Attributes:
        clusters: names, in the report's order.
        genes: symbols.
        mean: (c, g), of the log-normalised values.
        fraction: (c, g), share of the cluster's cells with a value above zero.
    """

    clusters: tuple[str, ...]
    genes: tuple[str, ...]
    mean: Array
    fraction: Array

    def to_uns(self) -> dict[str, Any]:
        """As arrays that an h5ad or zarr file holds."""
        return {
            "clusters": np.array(self.clusters, dtype=object),
            "genes": np.array(self.genes, dtype=object),
            "mean": self.mean,
            "fraction": self.fraction,
        }

    @classmethod
    def from_uns(cls, stored: Mapping[str, Any]) -> MarkerExpression:
        """From what :meth:`to_uns` gave."""
        clusters, genes = (tuple(str(name) for name in np.atleast_1d(stored[key])) for key in ("clusters", "genes"))
        mean, fraction = (
            np.asarray(stored[key], dtype=np.float64).reshape(len(clusters), len(genes)) for key in ("mean", "fraction")
        )
        return cls(clusters, genes, mean, fraction)


def deciding_markers(annotations: Sequence[Annotation]) -> dict[str, tuple[str, ...]]:
    """The strongest supporting genes of each shown label, each gene once; 60 genes at most.

    Labels are in the order of their cells, the commonest first. What is unknown has none.
    """
    found = _by_label(annotations)
    found.pop(UNKNOWN, None)
    share = min(MAX_PER_LABEL, max(1, MAX_GENES // max(len(found), 1)))
    chosen: dict[str, tuple[str, ...]] = {}
    used: set[str] = set()
    for label, members in list(found.items())[:MAX_GENES]:
        weights: dict[str, float] = {}
        for gene in (g for a in members if _decided_by_markers(a) for g in a.evidence.supporting):
            weights[gene.gene] = weights.get(gene.gene, 0.0) + gene.weight
        genes = sorted((g for g in weights if g not in used), key=lambda g: (-weights[g], g))[:share]
        if genes:
            chosen[label] = tuple(genes)
            used.update(genes)
    return chosen


def marker_expression(
    expression: Expression, codes: npt.NDArray[np.int64], report: DatasetReport
) -> MarkerExpression | None:
    """Expression of the deciding markers in every cluster; None where no marker decided anything.

    Args:
        expression: of the cells, log-normalised.
        codes: (n_cells,) which annotation of the report is each cell's; -1 for none.
    """
    wanted = [gene for genes in deciding_markers(report.annotations).values() for gene in genes]
    position = {gene: i for i, gene in enumerate(expression.genes)}
    genes = [gene for gene in wanted if gene in position]
    if not genes:
        return None
    at = [position[gene] for gene in genes]
    parts = (chunk[:, at] for chunk in expression.values.chunks())
    statistics = group_sums(parts, codes, len(report.annotations)).inside()
    return MarkerExpression(
        tuple(a.cluster for a in report.annotations), tuple(genes), statistics.mean, statistics.fraction
    )


def dot_plot_png(markers: MarkerExpression, report: DatasetReport) -> bytes:
    """A PNG of scanpy's dot plot: clusters by label, and the genes of each label; at most 60 clusters.

    The colour is the mean expression, scaled to 0 to 1 over the clusters for each gene; one cluster's isn't scaled.
    """
    import anndata
    import scanpy as sc

    rows, by_label = _rows(report.annotations), _groups(markers, report)
    names, genes = [f"r{i}" for i in rows], [gene for group in by_label.values() for gene in group]
    mean, fraction = (
        pd.DataFrame(values[rows], index=names, columns=list(markers.genes))[genes]
        for values in (markers.mean, markers.fraction)
    )
    groups = pd.CategoricalIndex(names, categories=names, name="cluster")
    small = anndata.AnnData(mean.copy(), obs=pd.DataFrame({"cluster": groups}, index=names))
    width, height = _size(len(genes), len(rows))
    figure = new_figure(width, height)
    plot = sc.pl.DotPlot(
        small,
        by_label,
        "cluster",
        categories_order=names,
        dot_color_df=_scaled(mean),
        dot_size_df=fraction,
        ax=figure.add_subplot(),
        var_group_rotation=90,
    )
    plot.style(cmap="Blues", dot_edge_color="#33475b", dot_edge_lw=0.3, grid=True)
    plot.legend(colorbar_title="mean expression\n(scaled per gene)" if len(rows) > 1 else "mean expression")
    plot.make_figure()
    axes = plot.get_axes()["mainplot_ax"]
    axes.set_yticklabels([_row_name(report.annotations[i]) for i in rows])
    axes.set_xticklabels([legible(gene, 20) for gene in genes])
    return png_bytes(figure, bbox_inches="tight", dpi=DPI if len(genes) <= MANY_GENES else 100)


def _decided_by_markers(annotation: Annotation) -> bool:
    """Whether the label is the one that the evidence is about."""
    return annotation.override is None or annotation.override.label == annotation.override.replaced


def _by_label(annotations: Sequence[Annotation]) -> dict[str, list[Annotation]]:
    """Annotations by shown label, the label with most cells first and unknown last."""
    groups: dict[str, list[Annotation]] = {}
    for a in annotations:
        groups.setdefault(shown_label(a), []).append(a)
    order = sorted(groups, key=lambda label: (label == UNKNOWN, -sum(a.n_cells or 0 for a in groups[label])))
    return {label: groups[label] for label in order}


def _rows(annotations: Sequence[Annotation]) -> list[int]:
    """Positions of the clusters shown, by label; of more than 60 the largest."""
    largest = sorted(range(len(annotations)), key=lambda i: -(annotations[i].n_cells or 0))[:MAX_CLUSTERS]
    order = {label: i for i, label in enumerate(_by_label(annotations))}
    return sorted(largest, key=lambda i: (order[shown_label(annotations[i])], i))


def _groups(markers: MarkerExpression, report: DatasetReport) -> dict[str, list[str]]:
    """The measured genes of each label, under names that a figure can show."""
    groups: dict[str, list[str]] = {}
    for label, genes in deciding_markers(report.annotations).items():
        measured = [gene for gene in genes if gene in markers.genes]
        if measured:
            # one gene leaves room for one line above it
            words = legible(label, 22, lines=2) if len(measured) > 1 else legible(label, 26)
            groups.setdefault(words, []).extend(measured)
    return groups or {"": list(markers.genes)}


def _scaled(mean: pd.DataFrame) -> pd.DataFrame:
    if len(mean) < 2:
        return mean
    low, high = mean.min(axis=0), mean.max(axis=0)
    return ((mean - low) / (high - low).replace(0.0, 1.0)).astype(float)


def _row_name(annotation: Annotation) -> str:
    cluster, label = legible(annotation.cluster, 18), legible(shown_label(annotation), 42)
    return label if cluster == label else f"{label}  \u00b7  {cluster}"


def _size(n_genes: int, n_rows: int) -> tuple[float, float]:
    """Width and height in inches."""
    return 0.33 * n_genes + 2.2, max(3.2, 0.31 * n_rows + 1.6)
