"""Operators that train a latent model, and label new cells with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator

from airflow_provider_gca.utils.assets import note_assets, with_alias
from airflow_provider_gca.utils.failures import as_task_failure
from airflow_provider_gca.utils.fields import check_literals, given, make_model, require_text
from airflow_provider_gca.utils.links import FigureLink, ReportLink

if TYPE_CHECKING:
    from airflow.sdk import Context

ARTEFACTS = ("checkpoint", "latent", "metrics")


class TrainVAEOperator(BaseOperator):
    """Train a VAE on counts, score its latent space beside PCA and genes, and write what came out.

    Runs :func:`gca_core.latent.run_training` in the worker's process. Returns its result: metrics, URIs of
    what was written (metrics, checkpoint, latent, umap, config, report and more) and seconds. The task's
    ``Report`` button leads to the HTML report, ``Figure`` to the UMAP.

    Options come from, lowest first: ``default.yaml``, the worker's machine profile, ``config``, ``GCA_VAE__*``
    variables, ``options``, and the other arguments.

    With ``asset_alias`` the checkpoint, the latent cells and the metrics become events of assets under that alias,
    with the metrics as their extra, so that other DAGs can wait for them.

    Fails at once, without a retry, when the input is missing, holds no counts, or lacks a named column; nothing
    is written then.

    Args:
        input_uri: the cells, ``file://``, ``gs://`` or a path. Templated, like all that follow up to ``options``.
        output_dir: folder for the results.
        config: options as a mapping, or a YAML file, or the name of a bundled example.
        recover_counts: the file holds log-normalised counts; recover the counts, or refuse.
        label_key: column of obs with known labels, for the evaluation.
        label_map: replaces labels before the evaluation, e.g. fine by coarse ones.
        batch_key: column of obs with the batch.
        options: any other option of :class:`gca_core.latent.LatentConfig`, such as ``epochs`` or ``seed``.
        asset_alias: name of the alias; None means no asset events.
    """

    template_fields: Sequence[str] = (
        "input_uri",
        "output_dir",
        "config",
        "recover_counts",
        "label_key",
        "label_map",
        "batch_key",
        "options",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"config": "json", "label_map": "json", "options": "json"}
    operator_extra_links = (ReportLink(), FigureLink())
    ui_color = "#dfe9d8"

    def __init__(
        self,
        *,
        input_uri: str,
        output_dir: str,
        config: str | Mapping[str, Any] | None = None,
        recover_counts: bool | str | None = None,
        label_key: str | None = None,
        label_map: Mapping[str, str | None] | None = None,
        batch_key: str | None = None,
        options: Mapping[str, Any] | None = None,
        asset_alias: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**with_alias(kwargs, asset_alias))
        self.input_uri = input_uri
        self.output_dir = output_dir
        self.config = config
        self.recover_counts = recover_counts
        self.label_key = label_key
        self.label_map = label_map
        self.batch_key = batch_key
        self.options = options
        self.asset_alias = asset_alias
        self.report_uri: str | None = None
        self.figure_uri: str | None = None
        from gca_core.latent.config import LatentConfig

        # a file may name the label column that label_map needs
        literal = self._values() if not isinstance(config, str) else {**self._values(), "label_key": "{{ config }}"}
        check_literals(type(self).__name__, LatentConfig, {**self._mapping(), **literal})

    def _mapping(self) -> dict[str, Any]:
        return dict(self.config) if isinstance(self.config, Mapping) else {}

    def _values(self) -> dict[str, Any]:
        options = self.options if isinstance(self.options, Mapping) else {}
        names = ("input_uri", "output_dir", "recover_counts", "label_key", "label_map", "batch_key")
        return given({**options, **given({name: getattr(self, name) for name in names})})

    def execute(self, context: Context) -> dict[str, Any]:
        """Train and return the result as JSON."""
        with as_task_failure():
            from gca_core.latent import run_training
            from gca_core.latent.config import load_config
            from gca_core.machine import find_profile, training_options

            profile = find_profile()
            defaults = {**(training_options(profile) if profile else {}), **given(self._mapping())}
            source = self.config if isinstance(self.config, str) and given({"config": self.config}) else None
            result = run_training(load_config(source, defaults=defaults, **self._values()))
        self.report_uri, self.figure_uri = result["uris"].get("report"), result["uris"].get("umap")
        artefacts = {name: result["uris"][name] for name in ARTEFACTS if name in result["uris"]}
        note_assets(context, self.asset_alias, artefacts, {"metrics": result["metrics"], "model": result["model"]})
        return result


class TransferLabelsOperator(BaseOperator):
    """Label new cells with a trained model: their neighbours in its latent space vote, or the cell stays unlabelled.

    Runs :func:`gca_core.latent.transfer.labels.transfer_labels` in the worker's process. Returns its result: cells
    labelled and not, cells by label, agreement with known labels where a column was named, genes of the model that the
    cells lack, and URIs (labels as CSV, latent cells as h5ad).

    Fails at once, without a retry, when the run or the input is missing, or the run has no labels; nothing is written
    then.

    Args:
        input_uri: the new cells, ``file://``, ``gs://`` or a path. Templated, like all that follow up to ``options``.
        run_uri: folder that :class:`TrainVAEOperator` wrote, its ``output_dir``.
        output_dir: folder for the results.
        min_probability: share of the neighbours' votes below which a cell gets no label.
        recover_counts: the new cells' values are log-normalised counts.
        label_key: column of obs with known labels, to report the agreement with.
        label_map: replaces those labels first.
        options: any other option of :class:`gca_core.latent.transfer.config.TransferConfig`, such as ``n_neighbors``.
        asset_alias: name of an alias under which the labels become an asset event; None means none.
    """

    template_fields: Sequence[str] = (
        "input_uri",
        "run_uri",
        "output_dir",
        "min_probability",
        "recover_counts",
        "label_key",
        "label_map",
        "options",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"label_map": "json", "options": "json"}
    ui_color = "#dfe9d8"

    def __init__(
        self,
        *,
        input_uri: str,
        run_uri: str,
        output_dir: str,
        min_probability: float | str | None = None,
        recover_counts: bool | str | None = None,
        label_key: str | None = None,
        label_map: Mapping[str, str | None] | None = None,
        options: Mapping[str, Any] | None = None,
        asset_alias: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**with_alias(kwargs, asset_alias))
        self.input_uri = input_uri
        self.run_uri = run_uri
        self.output_dir = output_dir
        self.min_probability = min_probability
        self.recover_counts = recover_counts
        self.label_key = label_key
        self.label_map = label_map
        self.options = options
        self.asset_alias = asset_alias
        require_text(type(self).__name__, input_uri=input_uri, run_uri=run_uri, output_dir=output_dir)
        from gca_core.latent.transfer.config import TransferConfig

        check_literals(type(self).__name__, TransferConfig, self._values())

    def _values(self) -> dict[str, Any]:
        options = self.options if isinstance(self.options, Mapping) else {}
        names = ("input_uri", "run_uri", "output_dir", "min_probability", "recover_counts", "label_key", "label_map")
        return given({**options, **given({name: getattr(self, name) for name in names})})

    def execute(self, context: Context) -> dict[str, Any]:
        """Label the cells and return the result as JSON."""
        with as_task_failure():
            from gca_core.latent.transfer.config import TransferConfig
            from gca_core.latent.transfer.labels import transfer_labels

            result = transfer_labels(make_model(type(self).__name__, TransferConfig, self._values()))
        figures = {name: result[name] for name in ("n_cells", "n_labelled", "n_abstained", "metrics")}
        note_assets(context, self.asset_alias, {"labels": result["uris"]["labels"]}, figures)
        return result
