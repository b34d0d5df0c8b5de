"""Pictures of a latent space and of the training."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gca_core.latent.model.fitting import TrainingHistory
from gca_core.matrix.neighbours import neighbour_graph

# Okabe and Ito's colours, told apart also with impaired colour vision
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#f0e442", "#000000")
MISSING_COLOUR = "#c8c8c8"
DPI = 150
PERPLEXITY = 30.0

Matrix = npt.NDArray[np.floating[Any]]
Groups = npt.NDArray[np.object_]


def umap_embedding(latent: Matrix, *, seed: int) -> npt.NDArray[np.float32]:
    """Two UMAP coordinates per cell, (cells, 2); the seed decides them."""
    return neighbour_graph(latent, seed).umap(seed).astype(np.float32)


def tsne_embedding(latent: Matrix, *, seed: int) -> npt.NDArray[np.float32]:
    """Two t-SNE coordinates per cell, (cells, 2), started from the first two principal components, on one thread."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    # scikit-learn wants a perplexity below the number of cells
    perplexity = min(PERPLEXITY, (len(latent) - 1) / 3)
    reducer = TSNE(2, perplexity=perplexity, init="pca", random_state=seed, n_jobs=1)
    with threadpool_limits(1):
        return np.asarray(reducer.fit_transform(latent), dtype=np.float32)


def umap_figure(coordinates: Matrix, groups: Groups | None, *, title: str, method: str = "UMAP") -> Figure:
    """Cells in two coordinates, coloured by group; None is drawn in grey below the others.

    Args:
        coordinates: (cells, 2).
        groups: (cells,) label or batch of each cell; None means one colour.
        title: above the picture.
        method: what made the coordinates, for the axes.
    """
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.subplots()
    size = float(np.clip(12_000 / max(len(coordinates), 1), 0.5, 14))
    for name, colour, chosen in _layers(groups, len(coordinates)):
        axes.scatter(
            coordinates[chosen, 0], coordinates[chosen, 1], s=size, c=colour, linewidths=0, label=name, rasterized=True
        )
    if groups is not None:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, markerscale=(40 / size) ** 0.5)
    axes.set(title=title, xlabel=f"{method} 1", ylabel=f"{method} 2", xticks=[], yticks=[])
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def training_figure(history: TrainingHistory) -> Figure:
    """Negative log-likelihood and KL divergence per cell and epoch, training and held out."""
    figure = Figure(figsize=(8.0, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [record.epoch for record in history.epochs]
    _curves(left, epochs, [r.train_nll for r in history.epochs], [r.val_nll for r in history.epochs])
    _curves(right, epochs, [r.train_kl for r in history.epochs], [r.val_kl for r in history.epochs])
    left.set(ylabel="negative log-likelihood (nats per cell)", xlabel="epoch")
    right.set(ylabel="KL divergence (nats per cell)", xlabel="epoch")
    for axes in (left, right):
        axes.axvline(history.best_epoch, color="#888888", linewidth=0.8, linestyle="--", label="weights kept")
        axes.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False)
    return figure


def png_bytes(figure: Figure) -> bytes:
    """The figure as PNG, the same bytes for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def _curves(axes: Axes, epochs: Sequence[int], training: Sequence[float], held_out: Sequence[float]) -> None:
    axes.plot(epochs, training, color=PALETTE[0], linewidth=1.2, label="training")
    axes.plot(epochs, held_out, color=PALETTE[4], linewidth=1.2, label="held out")


def _layers(groups: Groups | None, n_cells: int) -> list[tuple[str, str, npt.NDArray[np.bool_]]]:
    if groups is None:
        return [("cells", PALETTE[0], np.ones(n_cells, dtype=bool))]
    names = sorted({str(group) for group in groups if group is not None})
    missing = np.array([group is None for group in groups])
    layers = [("no label", MISSING_COLOUR, missing)] if missing.any() else []
    return layers + [(name, _colour(i, len(names)), groups == name) for i, name in enumerate(names)]


def _colour(index: int, total: int) -> str:
    if total <= len(PALETTE):
        return PALETTE[index]
    red, green, blue, _ = colormaps["gist_ncar"](0.03 + 0.92 * index / total)
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"
