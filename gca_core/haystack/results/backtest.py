"""The page of a backtest."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gca_core.pages import base64_text, render_page
from gca_core.responses.backtest import REFERENCE, Regime

CHOSEN, OTHER = "#1b7f5c", "#9aa3ab"


def render_backtest(regimes: Sequence[Regime], dataset: str | None) -> str:
    """A self-contained page: a table and a picture for each regime."""
    return render_page(
        "gca_core.haystack",
        "backtest.html.j2",
        title=f"How well {dataset or 'the atlas'} foretells its own responses",
        regimes=[(regime, base64_text(_draw(regime))) for regime in regimes],
    )


def _draw(regime: Regime) -> bytes:
    """PNG: mean accuracy of each answer, and for each pair the accuracy that was forecast against the true one."""
    figure = Figure(figsize=(9, 3.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    bars, points = figure.subplots(1, 2, width_ratios=(1.2, 1))
    rows = [row for row in regime.rows if row.pearson]
    colors = [CHOSEN if row.answer == REFERENCE else OTHER for row in rows]
    bars.barh([row.answer for row in rows], [row.pearson for row in rows], color=colors)
    bars.invert_yaxis()
    bars.set_xlabel("mean Pearson with the truth")
    expected = [forecast.value for forecast in regime.forecast]
    reach = [[f.value - f.low for f in regime.forecast], [f.high - f.value for f in regime.forecast]]
    points.errorbar(expected, regime.truth, xerr=reach, fmt="none", ecolor=OTHER, elinewidth=0.4, alpha=0.4)
    points.scatter(expected, regime.truth, s=8, color=CHOSEN, zorder=3)
    ends = [min(0.0, *expected, *regime.truth), 1.0]
    points.plot(ends, ends, color="black", linewidth=0.8, linestyle="--")
    points.set(xlim=ends, ylim=ends, xlabel="Pearson forecast, with its 90 % interval", ylabel="Pearson reached")
    for axes in (bars, points):
        axes.spines[["top", "right"]].set_visible(False)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
