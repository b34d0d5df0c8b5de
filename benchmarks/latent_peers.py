"""scvi-tools and scib-metrics as the latent benchmark uses them; each with the options that ours was given."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import statistics
import time
import warnings
from typing import Any

import anndata as ad
import numpy as np
import torch

from gca_core.latent.config import LatentConfig
from gca_core.latent.data.adapter import DataAdapter

CONDITION = "benchmark_batch"
LABEL = "benchmark_label"
UNKNOWN = "unlabelled"


def missing(module: str) -> bool:
    """Whether a library isn't installed; says so."""
    absent = importlib.util.find_spec(module) is None
    if absent:
        print(f"skipped: {module} is not installed; the extra 'bench' has it")
    return absent


def peer_cells(data: DataAdapter) -> ad.AnnData:
    """The same counts of the same genes, with batch and label; labels of test cells are not told."""
    cells = ad.AnnData(X=data.counts.copy(), obs=data.obs[[]].copy())
    cells.obs[CONDITION] = data.batch_codes.astype(str)
    if data.labels is not None:
        known = np.where(data.label_codes >= 0, data.labels, UNKNOWN)
        known[data.test_cells] = UNKNOWN
        cells.obs[LABEL] = known.astype(str)
    return cells


def train_scvi(data: DataAdapter, *, epoch_times: list[float] | None = None) -> Any:
    """scVI on the training cells, with the split, sizes, likelihood, epochs and warm-up of ``data.config``."""
    import scvi

    config = data.config
    with _quiet():
        scvi.settings.seed = config.seed
        torch.set_num_threads(config.threads)
        fitted = np.sort(np.concatenate([data.train_cells, data.val_cells]))
        cells = peer_cells(data)[fitted].copy()
        scvi.model.SCVI.setup_anndata(cells, batch_key=CONDITION if len(data.registry.batches) > 1 else None)
        model = scvi.model.SCVI(
            cells,
            n_hidden=config.hidden_dims[0],
            n_latent=config.latent_dim,
            n_layers=len(config.hidden_dims),
            dropout_rate=config.dropout,
            gene_likelihood=config.likelihood,
        )
        model.train(
            max_epochs=config.epochs,
            accelerator="cpu",
            batch_size=config.batch_size,
            enable_progress_bar=False,
            logger=False,
            plan_kwargs={"n_epochs_kl_warmup": max(config.warmup, 1), "lr": config.lr},
            datasplitter_kwargs={
                "external_indexing": [np.searchsorted(fitted, x) for x in (data.train_cells, data.val_cells)]
            },
            callbacks=[] if epoch_times is None else [_clock(epoch_times)],
        )
    return model


def scvi_latent(model: Any, data: DataAdapter) -> np.ndarray:
    """Latent means of all cells."""
    with _quiet():
        return np.asarray(model.get_latent_representation(peer_cells(data)))


def scvi_nll(model: Any, data: DataAdapter, cells: np.ndarray) -> float:
    """Held-out negative log-likelihood per cell, in nats."""
    with _quiet():
        found = model.get_reconstruction_error(peer_cells(data)[cells].copy())
    return float(found["reconstruction_loss"] if isinstance(found, dict) else found)


def scanvi_labels(model: Any, data: DataAdapter, cells: np.ndarray) -> tuple[np.ndarray, float]:
    """Labels of ``cells`` by scANVI, started from scVI as its tutorial does, and the seconds it took more."""
    import scvi

    start = time.perf_counter()
    with _quiet():
        torch.set_num_threads(data.config.threads)
        scanvi = scvi.model.SCANVI.from_scvi_model(model, labels_key=LABEL, unlabeled_category=UNKNOWN)
        scanvi.train(
            max_epochs=min(10, max(2, data.config.epochs // 3)),
            accelerator="cpu",
            batch_size=data.config.batch_size,
            enable_progress_bar=False,
            logger=False,
        )
        asked = peer_cells(data)[cells].copy()
        return np.asarray(scanvi.predict(asked)).astype(str), time.perf_counter() - start


def mixing(latent: np.ndarray, batches: np.ndarray, labels: np.ndarray, seed: int = 0) -> dict[str, float]:
    """How well batches are mixed, and cell types kept apart, by scib-metrics; all from 0, bad, to 1, good."""
    import scib_metrics
    from scib_metrics.nearest_neighbors import pynndescent

    with _quiet():
        neighbours = pynndescent(latent, n_neighbors=90, random_state=seed)
        return {
            "iLISI": float(scib_metrics.ilisi_knn(neighbours, batches)),
            "batch ASW": float(scib_metrics.silhouette_batch(latent, labels, batches)),
            "cLISI": float(scib_metrics.clisi_knn(neighbours, labels)),
        }


def median_step(times: list[float]) -> float:
    """Median difference of times, the first one left out."""
    return statistics.median(np.diff(times)[1:].tolist())


def config_line(config: LatentConfig) -> str:
    """What all models of a table were given."""
    return (
        f"{config.epochs} epochs, warm-up {config.warmup}, latent {config.latent_dim}, hidden {config.hidden_dims}, "
        f"{config.likelihood}, batch {config.batch_size}, {config.threads} thread"
    )


def _clock(times: list[float]) -> Any:
    from lightning.pytorch import Callback

    class Clock(Callback):  # type: ignore[misc]
        def on_train_epoch_end(self, *_: Any) -> None:
            times.append(time.perf_counter())

    return Clock()


@contextlib.contextmanager
def _quiet() -> Any:
    logging.disable(logging.WARNING)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
