"""The operator that takes a data set into the atlas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator

from airflow_provider_gca.failures import as_task_failure
from airflow_provider_gca.hooks.atlas import AtlasHook
from airflow_provider_gca.operators.fields import check_literals, given, make_model, require_text

if TYPE_CHECKING:
    from airflow.sdk import Context

OWN_FIELDS = (
    "input_uri",
    "dataset",
    "perturbation_column",
    "control_value",
    "perturbation_names",
    "cell_type_column",
    "cell_type_id_column",
    "donor_column",
    "layer",
)


class IngestAtlasOperator(BaseOperator):
    """Take an h5ad file with raw counts into the atlas that HAYSTACK draws its prompts from.

    Runs :func:`gca_core.atlas.ingest.ingest`. The same file again changes nothing; other content under the same
    name replaces the dataset in one transaction. Returns the report: cells, genes and groups taken, and what
    could not be used.

    Fails at once, without a retry, when the file is missing, holds no counts or lacks a named column; the
    atlas is then as before. A database that can't be reached fails the task too, but a retry may follow.

    Args:
        input_uri: an h5ad file, ``file://``, ``gs://`` or a path. Templated, like all that follow.
        dataset: name of the dataset in the atlas.
        perturbation_column: column of obs with the perturbation.
        control_value: its value for unperturbed cells.
        cell_type_column: column of obs with the cell type; cells without one are left out.
        perturbation_names: names to store instead of the column's values.
        cell_type_id_column: column of obs with Cell Ontology ids.
        donor_column: column of obs with the donor.
        layer: the layer that holds the counts; None means X.
        gca_atlas_conn_id: connection of the atlas.
    """

    template_fields: Sequence[str] = (*OWN_FIELDS, "gca_atlas_conn_id")
    template_fields_renderers: ClassVar[dict[str, str]] = {"perturbation_names": "json"}
    ui_color = "#f3e6da"

    def __init__(
        self,
        *,
        input_uri: str,
        dataset: str,
        perturbation_column: str,
        control_value: str,
        cell_type_column: str,
        perturbation_names: Mapping[str, str] | None = None,
        cell_type_id_column: str | None = None,
        donor_column: str | None = None,
        layer: str | None = None,
        gca_atlas_conn_id: str = AtlasHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.input_uri = input_uri
        self.dataset = dataset
        self.perturbation_column = perturbation_column
        self.control_value = control_value
        self.cell_type_column = cell_type_column
        self.perturbation_names = perturbation_names
        self.cell_type_id_column = cell_type_id_column
        self.donor_column = donor_column
        self.layer = layer
        self.gca_atlas_conn_id = gca_atlas_conn_id
        from gca_core.atlas.models import IngestConfig

        check_literals(type(self).__name__, IngestConfig, self._values())
        require_text(type(self).__name__, gca_atlas_conn_id=gca_atlas_conn_id)

    def _values(self) -> dict[str, Any]:
        return given({name: getattr(self, name) for name in OWN_FIELDS})

    def execute(self, context: Context) -> dict[str, Any]:  # noqa: ARG002
        """Ingest and return the report as JSON."""
        with as_task_failure():
            from gca_core.atlas.ingest import ingest
            from gca_core.atlas.models import IngestConfig
            from gca_core.knowledge.ontology import load_ontology
            from gca_core.llm.embeddings import HashedTextEmbeddings

            config = make_model(type(self).__name__, IngestConfig, self._values())
            atlas = AtlasHook(self.gca_atlas_conn_id, role="admin").get_conn()
            ontology, embeddings = load_ontology(), HashedTextEmbeddings()
            report = ingest(
                config,
                atlas,
                embed=embeddings.embed_documents,
                resolve_cell_type=ontology.resolve,
                label_of=ontology.label,
                embedding_model=embeddings.model,
            )
            return report.model_dump(mode="json")
