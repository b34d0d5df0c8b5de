"""The operator that labels the clusters of an AnnData file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator

from airflow_provider_gca.failures import as_task_failure
from airflow_provider_gca.links import ReportLink
from airflow_provider_gca.operators.fields import given, make_model, require_text

if TYPE_CHECKING:
    from airflow.sdk import Context

OWN_FIELDS = ("input_uri", "output_uri", "cluster_key", "species", "tissue", "label_column", "marker_db", "prefix")


class AnnotateAnnDataOperator(BaseOperator):
    """Label the clusters of an h5ad file offline, and write h5ad, JSON, CSV, HTML and a figure.

    Runs :func:`gca_core.annotation.run.annotate_file` in the worker's process. Returns its result: URIs,
    number of clusters and cells, agreement with known labels where a column was named, seconds, versions. The
    task's ``Report`` button leads to the HTML report.

    Fails at once, without a retry, when the file is missing, a named column is not in it, or its matrix is
    scaled or ambiguous; nothing is written then.

    Args:
        input_uri: an h5ad file, ``file://``, ``gs://`` or a path. Templated, like all that follow.
        output_uri: folder for the results.
        cluster_key: column of obs with the clusters; None clusters the cells first.
        species: species of the cells.
        tissue: tissue of the cells, where known.
        label_column: column of obs with known labels, to report agreement with.
        marker_db: a marker database instead of the bundled one.
        prefix: prefix of the columns added to obs.
        options: any other option of :class:`gca_core.annotation.run.AnnotationConfig`, such as ``seed``.
    """

    template_fields: Sequence[str] = (*OWN_FIELDS, "options")
    template_fields_renderers: ClassVar[dict[str, str]] = {"options": "json"}
    operator_extra_links = (ReportLink(),)
    ui_color = "#dbe7f3"

    def __init__(
        self,
        *,
        input_uri: str,
        output_uri: str,
        cluster_key: str | None = None,
        species: str = "human",
        tissue: str | None = None,
        label_column: str | None = None,
        marker_db: str | None = None,
        prefix: str = "gptca_",
        options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.input_uri = input_uri
        self.output_uri = output_uri
        self.cluster_key = cluster_key
        self.species = species
        self.tissue = tissue
        self.label_column = label_column
        self.marker_db = marker_db
        self.prefix = prefix
        self.options = options
        self.report_uri: str | None = None
        require_text(type(self).__name__, input_uri=input_uri, output_uri=output_uri, species=species, prefix=prefix)

    def execute(self, context: Context) -> dict[str, Any]:  # noqa: ARG002
        """Annotate and return the result as JSON."""
        with as_task_failure():
            from gca_core.annotation.run import AnnotationConfig, annotate_file

            values = {**(self.options or {}), **{name: getattr(self, name) for name in OWN_FIELDS}}
            result = annotate_file(make_model(type(self).__name__, AnnotationConfig, given(values)))
        answer: dict[str, Any] = result.model_dump(mode="json")
        self.report_uri = answer.get("uris", {}).get("html")
        return answer
