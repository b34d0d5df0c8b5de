"""The evaluation of a finished run, made anew: other labels, another labelled file, or the same."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from gca_core.errors import ConfigurationError
from gca_core.io import join_uri, write_json
from gca_core.latent.config import LatentConfig, make_config, used_config
from gca_core.latent.data.adapter import DataAdapter
from gca_core.latent.evaluation.evaluate import Evaluation, evaluate_cells, evaluated_cells
from gca_core.latent.model.adapter import TorchVAE


class RunEvaluation(BaseModel):
    """What :func:`evaluate_run` found; all but ``uris`` is the content of ``evaluation.json``.

    Args:
        model: the kind of model, such as ``vae-nb``.
        seed: of the evaluation.
        n_cells: cells of the input.
        n_genes: genes of the model.
        metrics: macro-F1, accuracy and AUROC by representation and classifier.
        evaluation: with a table per label.
        uris: what was written, by name.
    """

    model: str
    seed: int
    n_cells: int
    n_genes: int
    metrics: dict[str, float]
    evaluation: Evaluation
    uris: dict[str, str]


def evaluate_run(
    run_uri: str,
    *,
    input_uri: str | None = None,
    labels_key: str | None = None,
    label_map: Mapping[str, str | None] | None = None,
    output_uri: str | None = None,
) -> RunEvaluation:
    """Score a run's latent space against labels, beside PCA and genes, without training.

    Args:
        run_uri: folder that a run wrote.
        input_uri: cells with the model's genes; None means those of the run.
        labels_key: column of obs with the labels; None means that of the run, with its ``label_map``.
        label_map: replaces the labels of ``labels_key``.
        output_uri: folder that receives ``evaluation.json``; None means the run's.

    Raises:
        ConfigurationError: neither the run nor the call names labels.
        DataValidationError: the run or the input isn't what is needed.
    """
    config = _config(run_uri, input_uri=input_uri, labels_key=labels_key, label_map=label_map)
    model = TorchVAE.load(join_uri(run_uri, "model"))
    with threadpool_limits(config.threads):
        data = DataAdapter(config, genes=model.registry.genes)
        chosen, _ = evaluated_cells(data)
        evaluation = evaluate_cells(data, model.predict(data.iter_cells(chosen), registry=data.registry))
    uri = join_uri(output_uri or run_uri, "evaluation.json")
    result = RunEvaluation(
        model=f"vae-{model.architecture.likelihood}",
        seed=config.seed,
        n_cells=data.n_cells,
        n_genes=len(data.registry.genes),
        metrics=evaluation.flat(),
        evaluation=evaluation,
        uris={"evaluation": uri},
    )
    write_json(uri, result.model_dump(mode="json", exclude={"uris"}))
    return result


def _config(
    run_uri: str, *, input_uri: str | None, labels_key: str | None, label_map: Mapping[str, str | None] | None
) -> LatentConfig:
    used = used_config(run_uri)
    changes: dict[str, Any] = {}
    if input_uri is not None:
        # the split of the run's own cells says nothing about others
        changes |= {"input_uri": input_uri, "test_batches": (), "test_fraction": 0.0}
    if labels_key is not None:
        changes |= {"labels_key": labels_key, "label_map": None}
    if label_map is not None:
        changes["label_map"] = dict(label_map)
    config = make_config({**used.model_dump(), **changes})
    if config.labels_key is None:
        raise ConfigurationError("the run was trained without labels; name the column with them in labels_key")
    return config
