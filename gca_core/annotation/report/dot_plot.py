"""The dot plot of a report: the markers that decided, over the clusters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gca_core.annotation.models import UNKNOWN, Annotation, DatasetReport
from gca_core.annotation.report.drawing import DPI, legible, new_figure, png_bytes
from gca_core.annotation.report.palette import shown_label
from gca_core.annotation.scoring.marker_model import Array
from gca_core.matrix.stats import group_sums

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gca_core.annotation.adata.expression import Expression

MAX_GENES = 60
MAX_CLUSTERS = 60
MAX_PER_LABEL = 5
MANY_GENES = 40
# of a gene and of a cluster, in inches
CELL = 0.28
# for the longest names there are, in inches: left of the dots, below and above them; the picture is cut to its content
LEFT, BELOW, ABOVE = 8.0, 2.6, 4.2
EDGE: dict[str, Any] = {"edgecolors": "#33475b", "linewidths": 0.3}


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
    """A PNG of a dot plot as scanpy draws it: clusters by label, and the genes of each label; at most 60 clusters.

    The colour is the mean expression, scaled to 0 to 1 over the clusters for each gene; one cluster's isn't scaled.
    """
    rows, by_label = _rows(report.annotations), _groups(markers, report)
    genes = [gene for group in by_label.values() for gene in group]
    at = np.ix_(rows, [markers.genes.index(gene) for gene in genes])
    fraction, largest = markers.fraction[at], max(0.1, np.ceil(10 * markers.fraction[at].max()) / 10)
    width, height = CELL * (len(genes) + 0.6), CELL * (len(rows) + 1)
    size = LEFT + width + 2.2, BELOW + max(height, 2.0) + ABOVE
    figure = new_figure(*size, DPI if len(genes) <= MANY_GENES else 100)
    axes = _axes(figure, 0, 0, width, height)
    x, y = np.meshgrid(np.arange(len(genes)), np.arange(len(rows)))
    dots = axes.scatter(x, y, s=_area(fraction / largest), c=_scaled(markers.mean[at]), cmap="Blues", **EDGE)
    names = [_row_name(report.annotations[i]) for i in rows]
    axes.set(xlim=(-0.8, len(genes) - 0.2), ylim=(len(rows), -1))
    axes.set_xticks(range(len(genes)), [legible(gene, 20) for gene in genes], rotation=90, fontsize="small")
    axes.set_yticks(range(len(rows)), names, fontsize="small")
    axes.grid(color="gray", linewidth=0.1)
    axes.set_axisbelow(True)
    _write_groups(axes, by_label, height)
    _size_legend(_axes(figure, width + 0.5, 1.2, 1.5, 0.35), largest)
    bar = figure.colorbar(dots, cax=_axes(figure, width + 0.5, 0.3, 1.5, 0.15), orientation="horizontal")
    bar.ax.set_title("mean expression\n(scaled per gene)" if len(rows) > 1 else "mean expression", fontsize="small")
    bar.ax.tick_params(labelsize="small")
    return png_bytes(figure, tight=True)


def _axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a place in inches from where the dots begin."""
    w, h = figure.get_size_inches()
    return figure.add_axes(((LEFT + left) / w, (BELOW + bottom) / h, width / w, height / h))


def _area(share: Array) -> Array:
    """The area of dots, in square points."""
    return 200 * share**1.5


def _write_groups(axes: Axes, groups: Mapping[str, Sequence[str]], height: float) -> None:
    """Each label over a bracket around its genes."""
    start, over = 0, axes.get_xaxis_transform()
    low, high = (1 + inches / height for inches in (0.05, 0.11))
    for label, genes in groups.items():
        left, right = start - 0.3, start + len(genes) - 0.7
        axes.plot(
            [left, left, right, right], [low, high, high, low], transform=over, color="black", lw=1, clip_on=False
        )
        axes.text(
            (left + right) / 2, high + 0.06 / height, label, transform=over, ha="center", va="bottom", rotation=90
        )
        start += len(genes)


def _size_legend(axes: Axes, largest: float) -> None:
    step = 0.2 if largest > 0.6 else 0.1 if largest > 0.3 else 0.05
    shares = np.arange(largest, 0.01, -step)[::-1]
    axes.scatter(range(len(shares)), [0] * len(shares), s=_area(shares / largest), color="gray", **EDGE)
    axes.set_xticks(range(len(shares)), [f"{100 * share:.0f}" for share in shares], fontsize="small")
    axes.set(xlim=(-0.6, len(shares) - 0.4), yticks=[], frame_on=False)
    axes.set_title("Fraction of cells\nin group (%)", fontsize="small")


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


def _scaled(mean: Array) -> Array:
    if len(mean) < 2:
        return mean
    span = np.ptp(mean, axis=0)
    scaled: Array = (mean - mean.min(axis=0)) / np.where(span == 0, 1.0, span)
    return scaled


def _row_name(annotation: Annotation) -> str:
    cluster, label = legible(annotation.cluster, 18), legible(shown_label(annotation), 42)
    return label if cluster == label else f"{label}  \u00b7  {cluster}"
