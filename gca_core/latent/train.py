"""A whole latent run: read, train, embed, evaluate, draw, write."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import anndata as ad
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure
from pydantic import BaseModel
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from gca_core import __version__
from gca_core.io import as_uri, join_uri, staged, write_bytes, write_json, write_text
from gca_core.latent.config import LatentConfig, dump_config
from gca_core.latent.data.adapter import LABEL_COLUMN, SPLIT_COLUMN, DataAdapter
from gca_core.latent.evaluation.evaluate import (
    MEASURES,
    Evaluation,
    evaluable_cells,
    evaluate_cells,
    evaluated_cells,
    held_out_cells,
    label_scores,
)
from gca_core.latent.evaluation.report import render_report
from gca_core.latent.evaluation.visualize import png_bytes, training_figure, umap_embedding, umap_figure
from gca_core.latent.model.adapter import TorchVAE
from gca_core.latent.model.fitting import TrainingHistory
from gca_core.locks import check_earlier, sole_writer
from gca_core.matrix.cells import write_cells
from gca_core.progress import report_progress

log = logging.getLogger(__name__)

RESULT = "run.json"
VERSIONED = ("torch", "numpy", "scipy", "scikit-learn", "umap-learn", "anndata")


@dataclass(frozen=True)
class LatentRun:
    """What a run computed, before anything is written.

    Args:
        data: the cells.
        model: the fitted model.
        history: of the training.
        latent: (cells, latent) posterior means.
        umap: (cells, 2); NaN for cells beyond ``evaluation_cells``.
        evaluation: None without labels.
        head: what the label head scores on cells whose labels it was not trained on; None without a head.
        seconds: by stage.
    """

    data: DataAdapter
    model: TorchVAE
    history: TrainingHistory
    latent: npt.NDArray[np.float32]
    umap: npt.NDArray[np.float32]
    evaluation: Evaluation | None
    head: dict[str, Any] | None
    seconds: dict[str, float]


class LatentResult(BaseModel):
    """What a run hands on, and the content of ``run.json``.

    Args:
        model: the kind of model, such as ``vae-nb``.
        seed: of every random choice.
        n_cells: cells that were read.
        n_genes: genes that the model sees.
        metrics: scores and the held-out ELBO by name.
        seconds: by stage.
        uris: metrics, checkpoint, latent, umap, training, config, report and run.
    """

    model: str
    seed: int
    n_cells: int
    n_genes: int
    metrics: dict[str, float]
    seconds: dict[str, float]
    uris: dict[str, str]


def run_training(config: LatentConfig) -> LatentResult:
    """Train on counts, score the latent space beside its baselines, and write the results.

    The input, its labels and the output folder, to which nobody else may write meanwhile, are checked first. Equal
    configurations, inputs, versions and thread numbers give equal metrics.json files.

    Args:
        config: what to read, how to train, where to write.

    Raises:
        DataValidationError: the input isn't what the run needs; or another process is at the output folder, or earlier
            results that are not to be replaced are in it.
        ConfigurationError: the output folder can't be written to.
    """
    config.check_input()
    seconds: dict[str, float] = {}
    with threadpool_limits(config.threads), sole_writer(config.output_uri):
        check_earlier(config.output_uri, RESULT, overwrite=config.overwrite)
        with _timed(seconds, "read"):
            data = DataAdapter(config)
            _require_evaluable(data)
        run = compute(data, seconds, checkpoint_uri=join_uri(config.output_uri, "model"))
        with _timed(seconds, "write"):
            uris = write_results(run)
        result = LatentResult(
            model=f"vae-{config.likelihood}",
            seed=config.seed,
            n_cells=len(run.latent),
            n_genes=len(data.registry.genes),
            metrics=flat_metrics(run),
            seconds={stage: round(value, 2) for stage, value in seconds.items()},
            uris=uris,
        )
        write_json(uris["run"], result)
    return result


def compute(
    data: DataAdapter, seconds: dict[str, float] | None = None, *, checkpoint_uri: str | None = None
) -> LatentRun:
    """Train, embed and evaluate; writes nothing but the checkpoint of a training on its way, if told where."""
    config, seconds = data.config, {} if seconds is None else seconds
    log.info("training on %d cells, %d genes", len(data.train_cells), len(data.registry.genes))
    model = TorchVAE(config)
    with _timed(seconds, "train"):
        history = model.fit(data, checkpoint_uri=checkpoint_uri)
    with _timed(seconds, "embed"):
        latent = model.predict(data.iter_batches(), registry=data.registry)
    with _timed(seconds, "evaluate"):
        drawn, _ = evaluated_cells(data)
        evaluation = None if data.labels is None else evaluate_cells(data, latent[drawn])
        head = _head_scores(data, model) if config.label_head else None
    log.info("computing the UMAP")
    with _timed(seconds, "umap"):
        umap = np.full((len(latent), 2), np.nan, dtype=np.float32)
        umap[drawn] = umap_embedding(latent[drawn], seed=config.seed)
    return LatentRun(data, model, history, latent, umap, evaluation, head, seconds)


def _head_scores(data: DataAdapter, model: TorchVAE) -> dict[str, Any]:
    """Scores of the label head on test cells, or validation cells, whose labels it knows."""
    held_out = data.test_cells if len(data.test_cells) else data.val_cells
    cells = held_out[data.label_codes[held_out] >= 0]
    names = np.array(data.registry.labels)
    probabilities = model.predict_labels(data.iter_cells(cells), registry=data.registry)
    scores = label_scores(names[data.label_codes[cells]], probabilities, names)
    return scores | {"per_class": [row.model_dump(mode="json") for row in scores["per_class"]], "n_cells": len(cells)}


def flat_metrics(run: LatentRun) -> dict[str, float]:
    """The numbers that matter, by name: ``<space>_<classifier>_<measure>`` and the held-out ELBO's parts."""
    best = run.history.epochs[run.history.best_epoch - 1]
    metrics = run.evaluation.flat() if run.evaluation else {}
    if run.head is not None:
        metrics |= {f"label_head_{name}": run.head[name] for name in MEASURES if run.head[name] is not None}
    held_out = {"val_negative_elbo": best.val_negative_elbo, "val_nll": best.val_nll, "val_kl": best.val_kl}
    return metrics | {name: round(value, 4) for name, value in held_out.items()}


def write_results(run: LatentRun) -> dict[str, str]:
    """Write every file of a run, metrics.json last; returns their URIs."""
    config = run.data.config
    out = config.output_uri
    metrics = _metrics(run)
    umap_png = png_bytes(_umap_figure(run))
    training_png = png_bytes(training_figure(run.history))
    return {
        "checkpoint": run.model.save(join_uri(out, "model")),
        "latent": _write_latent(join_uri(out, "latent.h5ad"), run),
        "umap": write_bytes(join_uri(out, "figures", "umap.png"), umap_png),
        "training": write_bytes(join_uri(out, "figures", "training.png"), training_png),
        "config": write_text(join_uri(out, "config.used.yaml"), dump_config(config)),
        "report": write_text(
            join_uri(out, "report.html"),
            render_report(config, metrics, run.evaluation, umap_png=umap_png, training_png=training_png),
        ),
        "metrics": write_json(join_uri(out, "metrics.json"), metrics),
        "run": join_uri(out, RESULT),
    }


def _metrics(run: LatentRun) -> dict[str, Any]:
    history = run.history
    best = history.epochs[history.best_epoch - 1]
    return {
        "metrics": flat_metrics(run),
        "data": run.data.dataset_info(),
        "training": {
            "best_epoch": history.best_epoch,
            "epochs_run": len(history.epochs),
            "stopped_early": history.stopped_early,
            "val_negative_elbo": best.val_negative_elbo,
            "epochs": [record.model_dump(mode="json") for record in history.epochs],
        },
        "evaluation": run.evaluation.model_dump(mode="json") if run.evaluation else None,
        "label_head": run.head,
        "versions": {
            "airflow-provider-gca": __version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in VERSIONED},
        },
    }


def _umap_figure(run: LatentRun) -> Figure:
    registry = run.data.registry
    if run.data.labels is not None:
        return umap_figure(run.umap, run.data.labels, title=f"latent space, {registry.label_key}")
    if registry.batches:
        names = np.array([*registry.batches, None], dtype=object)[run.data.batch_codes]
        return umap_figure(run.umap, names, title=f"latent space, {registry.batch_key}")
    return umap_figure(run.umap, None, title="latent space")


def _write_latent(uri: str, run: LatentRun) -> str:
    names = [f"latent_{i}" for i in range(run.latent.shape[1])]
    obs = run.data.obs.copy()
    if run.data.labels is not None:
        obs[LABEL_COLUMN] = pd.Categorical(run.data.labels)
    split = np.full(len(obs), "train", dtype=object)
    split[run.data.val_cells] = "validation"
    split[run.data.test_cells] = "test"
    obs[SPLIT_COLUMN] = pd.Categorical(split)
    adata = ad.AnnData(X=run.latent, obs=obs, var=pd.DataFrame(index=names))
    adata.obsm["X_umap"] = run.umap
    with staged(uri) as target:
        write_cells(adata, target, compression=run.data.config.h5ad_compression)
    return as_uri(uri)


def _require_evaluable(data: DataAdapter) -> None:
    if data.labels is None:
        return
    config = data.config
    chosen, asked = evaluated_cells(data)
    if asked is not None:
        held_out_cells(data.labels[chosen], asked, knn_neighbors=config.knn_neighbors)
    else:
        evaluable_cells(data.labels[chosen], n_folds=config.n_folds, knn_neighbors=config.knn_neighbors)


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    report_progress(stage)
    start = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - start
