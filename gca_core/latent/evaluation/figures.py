"""The pictures of a finished run, drawn anew from its files."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any

import anndata as ad
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure
from pydantic import ValidationError

from gca_core.errors import ConfigurationError, DataValidationError
from gca_core.io import as_uri, join_uri, read_json, staged, write_bytes
from gca_core.latent.config import LatentConfig, used_config
from gca_core.latent.data.adapter import LABEL_COLUMN
from gca_core.latent.evaluation.visualize import png_bytes, training_figure, tsne_embedding, umap_embedding, umap_figure
from gca_core.latent.model.fitting import TrainingHistory
from gca_core.matrix.cells import read_h5ad

log = logging.getLogger(__name__)

PICTURES = ("umap", "tsne", "training")
TITLES = {"umap": "UMAP", "tsne": "t-SNE"}


def draw_run(
    run_uri: str,
    *,
    pictures: Collection[str] = PICTURES,
    color: str | None = None,
    seed: int | None = None,
    keep_coordinates: bool = False,
) -> dict[str, str]:
    """Draw a run's latent space and its training into ``figures/`` of its folder.

    Args:
        run_uri: folder that a run wrote.
        pictures: which to draw.
        color: column of the run's obs to colour cells by; None means the labels, else the batches.
        seed: of the coordinates; None means the run's. With another one than the run's the UMAP is made anew.
        keep_coordinates: also write ``figures/coordinates.csv``.

    Returns:
        URIs of what was written, by name.

    Raises:
        DataValidationError: the folder holds no run, or ``color`` is none of its columns.
        ConfigurationError: a picture has no such name.
    """
    if unknown := sorted(set(pictures) - set(PICTURES)):
        raise ConfigurationError(f"there is no picture {unknown[0]!r}; use {', '.join(PICTURES)}")
    cells, history, config = read_run(run_uri)
    groups, title = _groups(cells.obs, config, color)
    used = config.seed if seed is None else seed
    figures: dict[str, Figure] = {}
    coordinates: dict[str, npt.NDArray[np.float32]] = {}
    for name in (name for name in PICTURES if name in pictures):
        if name == "training":
            figures[name] = training_figure(history)
        else:
            log.info("computing the %s", TITLES[name])
            coordinates[name] = _coordinates(name, cells, seed=used, reuse=used == config.seed)
            figures[name] = umap_figure(coordinates[name], groups, title=title, method=TITLES[name])
    uris = {
        name: write_bytes(join_uri(run_uri, "figures", f"{name}.png"), png_bytes(figure))
        for name, figure in figures.items()
    }
    if keep_coordinates and coordinates:
        uris["coordinates"] = _write_coordinates(run_uri, cells.obs_names, coordinates)
    return uris


def read_run(run_uri: str) -> tuple[ad.AnnData, TrainingHistory, LatentConfig]:
    """The latent cells, training history and configuration of a finished run.

    Raises:
        DataValidationError: the folder holds no finished run, or its files are damaged.
    """
    metrics = read_json(join_uri(run_uri, "metrics.json"), what="run's metrics.json")
    try:
        history = TrainingHistory.model_validate(
            {name: metrics["training"][name] for name in TrainingHistory.model_fields}
        )
    except (ValidationError, KeyError, TypeError):
        raise DataValidationError(f"metrics.json in {run_uri!r} is not that of a latent run; train anew") from None
    config = used_config(run_uri)
    return read_h5ad(join_uri(run_uri, "latent.h5ad"), what="file with latent cells"), history, config


def _groups(obs: pd.DataFrame, config: LatentConfig, color: str | None) -> tuple[npt.NDArray[np.object_] | None, str]:
    if color is not None and color not in obs.columns:
        found = ", ".join(map(repr, obs.columns)) or "none"
        raise DataValidationError(f"the run's cells have no column {color!r} to colour by; found {found}")
    names: Mapping[str, str | None] = {LABEL_COLUMN: config.labels_key, str(config.batch_key): config.batch_key}
    column = color or next((name for name in names if name in obs.columns), None)
    if column is None:
        return None, "latent space"
    groups = np.array([None if pd.isna(value) else str(value) for value in obs[column]], dtype=object)
    return groups, f"latent space, {names.get(column) or column}"


def _coordinates(name: str, cells: ad.AnnData, *, seed: int, reuse: bool) -> npt.NDArray[np.float32]:
    if name == "tsne":
        return tsne_embedding(np.asarray(cells.X), seed=seed)
    if reuse and "X_umap" in cells.obsm:
        return np.asarray(cells.obsm["X_umap"], dtype=np.float32)
    return umap_embedding(np.asarray(cells.X), seed=seed)


def _write_coordinates(run_uri: str, names: pd.Index[Any], coordinates: Mapping[str, npt.NDArray[np.float32]]) -> str:
    columns = {f"{name}_{axis + 1}": values[:, axis] for name, values in coordinates.items() for axis in (0, 1)}
    uri = join_uri(run_uri, "figures", "coordinates.csv")
    with staged(uri) as target:
        pd.DataFrame(columns, index=names).to_csv(target, index_label="cell")
    return as_uri(uri)
