"""The UMAP of an annotated data set as a picture."""

from __future__ import annotations

import textwrap
from io import BytesIO
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gca_core.annotation.scoring import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_LEGEND = 40


def umap_png(coordinates: Array, labels: pd.Series, *, title: str) -> bytes:
    """A PNG of ``coordinates`` (n_cells, 2) coloured by label, each label written at the middle of its cells."""
    figure = Figure(figsize=(9.5, 6.2), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    names = labels.astype(object).where(labels.notna(), "no label")
    order = list(names.value_counts().index)
    palette = mpl.colormaps["tab20"]
    size = float(np.clip(20_000 / max(len(names), 1), 2.0, 30.0))
    for i, name in enumerate(order):
        cells = coordinates[(names == name).to_numpy()]
        colour = "#c8c8c8" if name in {"no label", "Unknown or Novel"} else palette(i % palette.N)
        axes.scatter(cells[:, 0], cells[:, 1], s=size, color=colour, linewidths=0, label=f"{name} ({len(cells):,})")
        _write_name(axes, name, np.median(cells, axis=0))
    axes.set(title=title, xlabel="UMAP 1", ylabel="UMAP 2", xticks=[], yticks=[])
    axes.spines[["top", "right"]].set_visible(False)
    if len(order) <= MAX_LEGEND:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8, markerscale=1.5)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _write_name(axes: Axes, name: str, middle: Array) -> None:
    # a dollar sign would start a formula
    text = "\n".join(textwrap.wrap(str(name), 26)).replace("$", r"\$")
    box = {"boxstyle": "round,pad=0.2", "facecolor": "white", "alpha": 0.7, "linewidth": 0}
    axes.annotate(text, (float(middle[0]), float(middle[1])), ha="center", va="center", fontsize=8, bbox=box)
