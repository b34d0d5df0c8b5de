"""The operator that trains a latent model and reports how good it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator

from airflow_provider_gca.failures import as_task_failure
from airflow_provider_gca.links import ReportLink
from airflow_provider_gca.operators.fields import check_literals, given, make_model

if TYPE_CHECKING:
    from airflow.sdk import Context


class TrainVAEOperator(BaseOperator):
    """Train an NB-VAE on counts, label cells in its latent space, and measure that beside PCA and genes.

    Runs :func:`gca_core.latent.run_training` in the worker's process. Returns its result: metrics, URIs of
    what was written (metrics, checkpoint, latent, umap, config, report and more) and seconds. The task's
    ``Report`` button leads to the HTML report.

    Fails at once, without a retry, when the input is missing, holds no counts, or lacks a named column; nothing
    is written then.

    Args:
        input_uri: an h5ad file, ``file://``, ``gs://`` or a path. Templated, like all that follow.
        output_dir: folder for the results.
        recover_counts: the file holds log-normalised counts; recover the counts, or refuse.
        label_key: column of obs with known labels, for the evaluation.
        label_map: replaces labels before the evaluation, e.g. fine by coarse ones.
        batch_key: column of obs with the batch.
        options: any other option of :class:`gca_core.latent.LatentConfig`, such as ``epochs`` or ``seed``.
    """

    template_fields: Sequence[str] = (
        "input_uri",
        "output_dir",
        "recover_counts",
        "label_key",
        "label_map",
        "batch_key",
        "options",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"label_map": "json", "options": "json"}
    operator_extra_links = (ReportLink(),)
    ui_color = "#dfe9d8"

    def __init__(
        self,
        *,
        input_uri: str,
        output_dir: str,
        recover_counts: bool | str = False,
        label_key: str | None = None,
        label_map: Mapping[str, str | None] | None = None,
        batch_key: str | None = None,
        options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.input_uri = input_uri
        self.output_dir = output_dir
        self.recover_counts = recover_counts
        self.label_key = label_key
        self.label_map = label_map
        self.batch_key = batch_key
        self.options = options
        self.report_uri: str | None = None
        from gca_core.latent.config import LatentConfig

        check_literals(type(self).__name__, LatentConfig, self._values())

    def _values(self) -> dict[str, Any]:
        options = self.options if isinstance(self.options, Mapping) else {}
        own = {
            name: getattr(self, name)
            for name in ("input_uri", "output_dir", "recover_counts", "label_key", "label_map", "batch_key")
        }
        return given({**options, **own})

    def execute(self, context: Context) -> dict[str, Any]:  # noqa: ARG002
        """Train and return the result as JSON."""
        with as_task_failure():
            from gca_core.latent import run_training
            from gca_core.latent.config import LatentConfig

            result = run_training(make_model(type(self).__name__, LatentConfig, self._values()))
        self.report_uri = result["uris"].get("report")
        return result
