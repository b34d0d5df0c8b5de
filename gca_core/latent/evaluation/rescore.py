"""The evaluation of a finished run, made anew: other labels, another labelled file, or the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from gca_core.errors import ConfigurationError
from gca_core.io import join_uri, write_json
from gca_core.latent.config import LatentConfig, load_config, make_config
from gca_core.latent.data.adapter import DataAdapter
from gca_core.latent.evaluation.evaluate import Evaluation, evaluate_latent
from gca_core.latent.model.adapter import TorchVAE
from gca_core.latent.train import evaluated_cells


def evaluate_run(
    run_uri: str,
    *,
    input_uri: str | None = None,
    label_key: str | None = None,
    label_map: Mapping[str, str | None] | None = None,
    output_dir: str | None = None,
) -> dict[str, Any]:
    """Score a run's latent space against labels, beside PCA and genes, without training.

    Args:
        run_uri: folder that a run wrote.
        input_uri: cells with the model's genes; None means those of the run.
        label_key: column of obs with the labels; None means that of the run, with its ``label_map``.
        label_map: replaces the labels of ``label_key``.
        output_dir: folder that receives ``evaluation.json``; None means the run's.

    Returns:
        JSON data: ``metrics`` (macro-F1, accuracy and AUROC by representation and classifier), ``evaluation`` (with
        a table per label), ``n_cells``, ``n_genes`` and ``uris``.

    Raises:
        ConfigurationError: neither the run nor the call names labels.
        DataValidationError: the run or the input isn't what is needed.
    """
    config = _config(run_uri, input_uri=input_uri, label_key=label_key, label_map=label_map)
    model = TorchVAE.load(join_uri(run_uri, "model"))
    with threadpool_limits(config.threads):
        data = DataAdapter(config, genes=model.registry.genes)
        evaluation = _evaluation(data, model)
    result = {
        "model": f"vae-{model.architecture.likelihood}",
        "seed": config.seed,
        "n_cells": data.n_cells,
        "n_genes": len(data.registry.genes),
        "metrics": flat_scores(evaluation),
        "evaluation": evaluation.model_dump(mode="json"),
    }
    uri = join_uri(output_dir or run_uri, "evaluation.json")
    write_json(uri, result)
    return {**result, "uris": {"evaluation": uri}}


def flat_scores(evaluation: Evaluation) -> dict[str, float]:
    """The scores by name: ``<space>_<classifier>_<measure>``."""
    return {
        f"{score.space}_{score.classifier}_{measure}": float(value)
        for score in evaluation.scores
        for measure in ("macro_f1", "accuracy", "auroc")
        if (value := getattr(score, measure, None)) is not None
    }


def _config(
    run_uri: str, *, input_uri: str | None, label_key: str | None, label_map: Mapping[str, str | None] | None
) -> LatentConfig:
    used = load_config(join_uri(run_uri, "config.used.yaml"), environ={})
    changes: dict[str, Any] = {}
    if input_uri is not None:
        # the split of the run's own cells says nothing about others
        changes |= {"input_uri": input_uri, "test_batches": (), "test_fraction": 0.0}
    if label_key is not None:
        changes |= {"label_key": label_key, "label_map": None}
    if label_map is not None:
        changes["label_map"] = dict(label_map)
    config = make_config({**used.model_dump(), **changes})
    if config.label_key is None:
        raise ConfigurationError("the run was trained without labels; name the column with them in label_key")
    return config


def _evaluation(data: DataAdapter, model: TorchVAE) -> Evaluation:
    config, (chosen, asked) = data.config, evaluated_cells(data)
    labels = np.asarray(data.labels, dtype=object)
    latent = model.predict(data.iter_cells(chosen), registry=data.registry)
    return evaluate_latent(
        latent,
        data.rows(chosen),
        labels[chosen],
        n_folds=config.n_folds,
        knn_neighbors=config.knn_neighbors,
        seed=config.seed,
        test_cells=asked,
        library=data.library[chosen],
    )
