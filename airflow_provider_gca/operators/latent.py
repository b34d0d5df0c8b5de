"""Operators that train a latent model, and label new cells with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_gca.operators.base import GcaOperator
from airflow_provider_gca.operators.batch import BatchCommand, BatchOperator
from airflow_provider_gca.utils.fields import given, make_model
from airflow_provider_gca.utils.results import BatchJobLink, BatchLogsLink, FigureLink, ReportLink
from gca_core.latent.config import LatentConfig
from gca_core.latent.transfer.config import TransferConfig

if TYPE_CHECKING:
    from airflow.sdk import Context


class TrainVAEOperator(BatchOperator):
    """Train a VAE on counts, score its latent space beside PCA and genes, and write what came out.

    Runs :func:`gca_core.latent.run_training` in the worker's process, or with ``execution="batch"`` the command
    ``gca vae train`` on a machine of Google Batch, ``input_uri`` and ``output_uri`` in buckets; the options are the
    fields of :class:`gca_core.latent.LatentConfig`. Returns its result: metrics, URIs of what was written (metrics,
    checkpoint, latent, umap, config, report and more) and seconds. The task's ``Report`` button leads to the HTML
    report, ``Figure`` to the UMAP.

    Options come from, lowest first: the defaults, the machine profile, ``config`` as a mapping or file,
    ``GCA_VAE__*`` variables, and the other arguments. A job on Google Batch reads them from ``<output_uri>.job.json``.

    With ``asset_alias`` the checkpoint, the latent cells and the metrics become events of assets.

    Args:
        config: options as a mapping, or a YAML file, or the name of a bundled example.
    """

    config_type = LatentConfig
    asset_names = ("checkpoint", "latent", "metrics")
    template_fields_renderers: ClassVar[dict[str, str]] = {"config": "json", "label_map": "json", "batch": "json"}
    operator_extra_links = (ReportLink(), FigureLink(), BatchJobLink(), BatchLogsLink())
    ui_color = "#dfe9d8"

    def __init__(self, *, config: str | Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        self.config = config
        super().__init__(**kwargs)

    def _mapping(self) -> dict[str, Any]:
        return dict(self.config) if isinstance(self.config, Mapping) else {}

    def checked_values(self) -> dict[str, Any]:
        """With those of ``config``; a file may name the label column that label_map needs."""
        unknown = {"labels_key": "{{ config }}"} if isinstance(self.config, str) else {}
        return {**self._mapping(), **self.values(), **unknown}

    def _config(self, defaults: Mapping[str, Any]) -> LatentConfig:
        from gca_core.latent.config import load_config

        source = self.config if isinstance(self.config, str) and given({"config": self.config}) else None
        return load_config(source, defaults={**defaults, **given(self._mapping())}, **self.values())

    def run_local(self, context: Context) -> Any:  # noqa: ARG002
        """Train."""
        from gca_core.latent import run_training
        from gca_core.machine import find_profile, training_options

        profile = find_profile()
        return run_training(self._config(training_options(profile) if profile else {}))

    def command(self) -> BatchCommand:
        """``gca vae train`` with the options in a file."""
        config = self._config({})
        uri = f"{config.output_uri.rstrip('/')}.job.json"
        # options that nobody gave are the machine's to choose
        asked = config.model_dump(mode="json", exclude_unset=True)
        return BatchCommand(("vae", "train", "--config"), uri, asked, (config.input_uri,), (config.output_uri,))

    def write_inputs(self) -> None:
        """Check what can be checked without a machine, and write the file of options."""
        from gca_core.io import write_json
        from gca_core.latent.train import RESULT
        from gca_core.locks import check_earlier

        config, command = self._config({}), self.command()
        config.check_input()
        check_earlier(config.output_uri, RESULT, overwrite=config.overwrite)
        places = {name: self.place(getattr(config, name)) for name in ("input_uri", "output_uri")}
        write_json(self.place(command.uri), {**command.asked, **places})

    def collect(self) -> Any:
        """What the job wrote last, with the final places of its files."""
        from gca_core.io import as_uri, join_uri, read_json
        from gca_core.latent.train import RESULT

        folder = self._config({}).output_uri
        result = read_json(join_uri(folder, RESULT), what="job's result")
        uris = {name: uri.replace(self.place(folder), as_uri(folder)) for name, uri in result["uris"].items()}
        return {**result, "uris": uris}

    def metrics(self, result: Any) -> dict[str, Any]:
        """The scores, and which model it is."""
        return {"metrics": result["metrics"], "model": result["model"]}


class TransferLabelsOperator(GcaOperator):
    """Label new cells with a trained model: their neighbours in its latent space vote, or the cell stays unlabelled.

    Runs :func:`gca_core.latent.transfer.labels.transfer_labels` in the worker's process; the options are the fields of
    :class:`gca_core.latent.transfer.config.TransferConfig`. Returns its result: cells labelled and not, cells by label,
    agreement with known labels where a column was named, genes of the model that the cells lack, and URIs (labels as
    CSV, latent cells as h5ad). With ``asset_alias`` the labels become an asset event.
    """

    config_type = TransferConfig
    input_fields = ("input_uri", "run_uri")
    asset_names = ("labels",)
    template_fields_renderers: ClassVar[dict[str, str]] = {"label_map": "json"}
    ui_color = "#dfe9d8"

    def work(self, context: Context) -> Any:  # noqa: ARG002
        """Label the cells."""
        from gca_core.latent.transfer.labels import transfer_labels

        return transfer_labels(make_model(type(self).__name__, TransferConfig, self.values()))

    def metrics(self, result: Any) -> dict[str, Any]:
        """How many cells have a label, and the agreement."""
        return {name: result[name] for name in ("n_cells", "n_labelled", "n_abstained", "metrics")}
