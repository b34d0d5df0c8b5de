"""The operator that takes a data set into the atlas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator

from airflow_provider_gca.hooks.atlas import AtlasHook
from airflow_provider_gca.utils.failures import as_task_failure
from airflow_provider_gca.utils.fields import check_literals, given, make_model, require_text

if TYPE_CHECKING:
    from airflow.sdk import Context

OWN_FIELDS = (
    "input_uri",
    "dataset",
    "preset",
    "perturbation_column",
    "control_value",
    "perturbation_names",
    "cell_type_column",
    "cell_type_id_column",
    "donor_column",
    "tissue_column",
    "tissue_id_column",
    "layer",
    "gene_column",
)


class IngestAtlasOperator(BaseOperator):
    """Take an h5ad file with raw counts into the atlas that HAYSTACK draws its prompts from.

    Runs :func:`gca_core.atlas.ingest.ingest`. The same file again changes nothing; other content under the same
    name replaces the dataset in one transaction. A retry after the worker was killed goes on where it stopped, when
    it runs on the same machine. Returns the report: cells, genes and groups taken, and what could not be used.

    Fails at once, without a retry, when the file is missing, holds no counts or lacks a named column; the
    atlas is then as before. A database that can't be reached fails the task too, but a retry may follow.

    Args:
        input_uri: an h5ad file, ``file://``, ``gs://`` or a path. Templated, like all that follow.
        dataset: name of the dataset in the atlas.
        preset: fills what is not given with the columns of a published kind of file: ``parse_pbmc``,
            ``openproblems``, ``tabula_sapiens`` or ``cellxgene_census``.
        perturbation_column: column of obs with the perturbation; None where no cell was perturbed.
        control_value: its value for unperturbed cells.
        cell_type_column: column of obs with the cell type; cells without one are left out. Needed without a preset.
        perturbation_names: names to store instead of the column's values.
        cell_type_id_column: column of obs with Cell Ontology ids.
        donor_column: column of obs with the donor.
        tissue_column: column of obs with the tissue.
        tissue_id_column: column of obs with UBERON ids.
        layer: the layer that holds the counts, or ``raw`` for raw.X; None means X.
        gene_column: column of var with the genes' names; None means the index.
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
        preset: str | None = None,
        perturbation_column: str | None = None,
        control_value: str | None = None,
        cell_type_column: str | None = None,
        perturbation_names: Mapping[str, str] | None = None,
        cell_type_id_column: str | None = None,
        donor_column: str | None = None,
        tissue_column: str | None = None,
        tissue_id_column: str | None = None,
        layer: str | None = None,
        gene_column: str | None = None,
        gca_atlas_conn_id: str = AtlasHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.input_uri = input_uri
        self.dataset = dataset
        self.preset = preset
        self.perturbation_column = perturbation_column
        self.control_value = control_value
        self.cell_type_column = cell_type_column
        self.perturbation_names = perturbation_names
        self.cell_type_id_column = cell_type_id_column
        self.donor_column = donor_column
        self.tissue_column = tissue_column
        self.tissue_id_column = tissue_id_column
        self.layer = layer
        self.gene_column = gene_column
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
            from gca_core.atlas.ingest.names import load_name_resolver
            from gca_core.atlas.models import IngestConfig
            from gca_core.llm.embeddings import open_embeddings

            config = make_model(type(self).__name__, IngestConfig, self._values())
            atlas = AtlasHook(self.gca_atlas_conn_id, role="admin").get_conn()
            embeddings = open_embeddings()
            report = ingest(
                config,
                atlas,
                embed=embeddings.embed_documents,
                vocabulary=load_name_resolver(),
                embedding_model=embeddings.model,
            )
            return report.model_dump(mode="json")
