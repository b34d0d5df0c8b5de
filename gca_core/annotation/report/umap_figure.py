"""The UMAPs of an annotated data set as pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pandas as pd

from gca_core.annotation.adata.obs import as_groups
from gca_core.annotation.models import DatasetReport
from gca_core.annotation.report.dot_plot import MarkerExpression, dot_plot_png
from gca_core.annotation.report.drawing import legible, new_figure, png_bytes
from gca_core.annotation.report.palette import (
    CONFIDENCE_COLOURS,
    GREY,
    NO_LABEL,
    label_colours,
    shown_confidence,
    shown_label,
)
from gca_core.annotation.scoring.marker_model import Array
from gca_core.errors import DataValidationError

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation as Text

MAX_LEGEND = 40
MAX_POINTS = 100_000
# where a name goes that would cover another one, in points
_SHIFTS = ((0, 0), (0, 14), (0, -14), (0, 28), (0, -28), (26, 0), (-26, 0), (26, 20), (-26, -20))


def report_figures(
    adata: AnnData, report: DatasetReport, coordinates: Array | None, markers: MarkerExpression | None
) -> dict[str, bytes]:
    """The pictures of a report as PNG: ``label`` and ``confidence`` on the UMAP, and ``dotplot``.

    Args:
        adata: the data, with the clusters of ``report`` in its obs.
        report: of that data.
        coordinates: (n_cells, 2) of the UMAP; None draws no cells.
        markers: their expression, as :func:`gca_core.annotation.report.dot_plot.marker_expression` gives it.

    Returns:
        The pictures by name; no ``dotplot`` where no marker decided anything.

    Raises:
        DataValidationError: the clusters in obs are not those of the report.
    """
    figures = {}
    if coordinates is not None:
        codes = cluster_codes(adata, report)
        labels, sure = ([show(a) for a in report.annotations] for show in (shown_label, shown_confidence))
        figures["label"] = umap_png(coordinates, _of_cells(codes, labels), colours=label_colours(report.annotations))
        figures["confidence"] = umap_png(coordinates, _of_cells(codes, sure), colours=CONFIDENCE_COLOURS, names=False)
    if markers is not None:
        figures["dotplot"] = dot_plot_png(markers, report)
    return figures


def cluster_codes(adata: AnnData, report: DatasetReport) -> npt.NDArray[np.int64]:
    """(n_cells,) which annotation of ``report`` is each cell's; -1 for cells without a cluster.

    Raises:
        DataValidationError: the clusters in obs are not those of the report.
    """
    if report.cluster_key not in adata.obs:
        raise DataValidationError(f"there is no cluster column {report.cluster_key!r} in obs, as the report has it")
    groups = as_groups(adata.obs[report.cluster_key])
    found = [str(name) for name in groups.cat.categories]
    expected = [a.cluster for a in report.annotations]
    if found != expected:
        raise DataValidationError(
            f"the column {report.cluster_key!r} has other clusters than the report: found {', '.join(found[:5])} "
            f"({len(found)} of them), expected {', '.join(expected[:5])} ({len(expected)} of them)"
        )
    return np.asarray(groups.cat.codes, dtype=np.int64)


def umap_png(
    coordinates: Array,
    labels: pd.Series,
    *,
    title: str = "",
    colours: Mapping[str, str] | None = None,
    names: bool = True,
) -> bytes:
    """A PNG of ``coordinates`` (n_cells, 2) coloured by label; of more than 100,000 cells that many are drawn.

    Args:
        labels: of the cells, in their order; missing ones are shown as such.
        colours: of the labels; None takes them from a palette, commonest label first.
        names: whether each label is written at the middle of its cells.
    """
    shown = labels.astype(object).where(labels.notna(), NO_LABEL).astype(str).to_numpy()
    sizes = pd.Series(shown).value_counts()
    order = [name for name in (colours or {}) if name in sizes.index] if not names else list(sizes.index)
    palette = dict(colours or _default_colours(list(sizes.index)))
    drawn = _sample(len(shown))
    figure = new_figure(9.5 if names else 7.2, 6.2, layout="constrained")
    axes = figure.add_subplot()
    dot = float(np.clip(20_000 / max(len(drawn), 1), 1.5, 30.0))
    for name in order:
        cells = drawn[shown[drawn] == name]
        axes.scatter(
            coordinates[cells, 0],
            coordinates[cells, 1],
            s=dot,
            color=palette.get(name, GREY),
            linewidths=0,
            label=f"{legible(name, 44)} ({sizes[name]:,})",
        )
    axes.set(title=legible(title, 90), xlabel="UMAP 1", ylabel="UMAP 2", xticks=[], yticks=[])
    axes.spines[["top", "right"]].set_visible(False)
    _add_legend(axes, len(order), scale=max(1.0, float(np.sqrt(36 / dot))), beside=names)
    if names:
        _write_names(figure, axes, {name: np.median(coordinates[shown == name], axis=0) for name in order})
    return png_bytes(figure)


def _of_cells(codes: npt.NDArray[np.int64], values: list[str]) -> pd.Series:
    table = np.array([*values, NO_LABEL], dtype=object)
    return pd.Series(table[codes])


def _sample(n: int) -> npt.NDArray[np.int64]:
    if n <= MAX_POINTS:
        return np.arange(n)
    return np.sort(np.random.default_rng(0).choice(n, MAX_POINTS, replace=False))


def _default_colours(order: list[str]) -> dict[str, str]:
    palette = mpl.colormaps["tab20"]
    grey = {NO_LABEL, "Unknown or Novel"}
    return {name: GREY if name in grey else mpl.colors.to_hex(palette(i % palette.N)) for i, name in enumerate(order)}


def _add_legend(axes: Axes, n: int, *, scale: float, beside: bool) -> None:
    if n > MAX_LEGEND:
        return
    size = 8.5 if n <= 28 else 6.5
    if beside:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=size, markerscale=scale)
    else:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=n, frameon=False, fontsize=size, markerscale=scale)


def _write_names(figure: Figure, axes: Axes, middles: Mapping[str, Array]) -> None:
    """Write each name near its place, commonest first; one that would cover others wherever it goes is left out."""
    box = {"boxstyle": "round,pad=0.2", "facecolor": "white", "alpha": 0.75, "linewidth": 0}
    layout = figure.get_layout_engine()
    if layout is not None:
        layout.execute(figure)
    # everything has its place now
    figure.set_layout_engine("none")
    taken: list[Any] = []
    for name, middle in middles.items():
        text = axes.annotate(
            legible(name, 24, lines=3),
            (float(middle[0]), float(middle[1])),
            xytext=(0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8,
            bbox=box,
        )
        text.set_in_layout(False)
        place = _free_place(text, taken)
        if place is None:
            text.remove()
        else:
            taken.append(place)


def _free_place(text: Text, taken: list[Any]) -> Any:
    """The extent of the text at the first place where it covers no other; None if there is none."""
    for shift in _SHIFTS:
        text.set_position(shift)
        extent = text.get_window_extent()
        if not any(extent.overlaps(other) for other in taken):
            return extent
    return None
