"""What the pictures of a report share: a canvas without a display, text that is drawn as it reads, PNG bytes."""

import textwrap
import warnings
from io import BytesIO
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

DPI = 130


def new_figure(width: float, height: float, dpi: int = DPI, **options: Any) -> Figure:
    """An empty figure of so many inches that no window shows."""
    figure = Figure(figsize=(width, height), dpi=dpi, **options)
    FigureCanvasAgg(figure)
    return figure


def png_bytes(figure: Figure, *, tight: bool = False) -> bytes:
    """The PNG of a figure, cut to its content if ``tight``. The same bytes each time; what the font lacks is a box."""
    buffer = BytesIO()
    canvas: Any = FigureCanvasAgg(figure)
    options: dict[str, Any] = {"metadata": {"Software": None}, "pil_kwargs": {"compress_level": 4}}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        # savefig would lay out and draw everything twice
        if tight:
            box = figure.get_tightbbox(canvas.get_renderer()).padded(0.1)
            canvas.print_figure(buffer, format="png", dpi=figure.dpi, bbox_inches=box, **options)
        else:
            canvas.print_png(buffer, **options)
    return buffer.getvalue()


def legible(text: str, width: int, *, lines: int = 1) -> str:
    """Text from data for a figure: printable, in so many lines of so many characters, and no formula in it."""
    words = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    wrapped = textwrap.wrap(words, width, break_on_hyphens=False) or [""]
    if len(wrapped) > lines:
        wrapped = [*wrapped[: lines - 1], wrapped[lines - 1][: width - 1] + "\u2026"]
    return "\n".join(wrapped).replace("$", r"\$")
