"""What the pictures of a report share: a canvas without a display, text that is drawn as it reads, PNG bytes."""

import textwrap
import warnings
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

DPI = 130


def new_figure(width: float, height: float, dpi: int = DPI, **options: Any) -> Figure:
    """An empty figure of so many inches that no window shows."""
    figure = Figure(figsize=(width, height), dpi=dpi, **options)
    FigureCanvasAgg(figure)
    return figure


def png_bytes(figure: Figure, *, tight: bool = False) -> bytes:
    """The PNG of a figure, cut to its content if ``tight``. The same bytes each time; what the font lacks is a box."""
    canvas: Any = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())
    if tight:
        # matplotlib's tight box would measure every text once more, a third of the time of a dot plot
        drawn, edge = pixels.view(np.uint32)[..., 0] != 0xFFFFFFFF, round(0.1 * figure.dpi)
        rows, columns = (np.flatnonzero(drawn.any(axis=axis)) for axis in (1, 0))
        pixels = pixels[
            max(rows[0] - edge, 0) : rows[-1] + edge + 1, max(columns[0] - edge, 0) : columns[-1] + edge + 1
        ]
    buffer = BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "png", dpi=(figure.dpi,) * 2, compress_level=4)
    return buffer.getvalue()


def legible(text: str, width: int, *, lines: int = 1) -> str:
    """Text from data for a figure: printable, in so many lines of so many characters, and no formula in it."""
    words = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    wrapped = textwrap.wrap(words, width, break_on_hyphens=False) or [""]
    if len(wrapped) > lines:
        wrapped = [*wrapped[: lines - 1], wrapped[lines - 1][: width - 1] + "\u2026"]
    return "\n".join(wrapped).replace("$", r"\$")
