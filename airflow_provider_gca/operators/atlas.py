"""The operator that takes a data set into the atlas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_gca.hooks.atlas import AtlasHook
from airflow_provider_gca.operators.base import GcaOperator
from airflow_provider_gca.utils.fields import make_model, require_text
from airflow_provider_gca.utils.results import AtlasLink
from gca_core.atlas.models import IngestConfig

if TYPE_CHECKING:
    from airflow.sdk import Context


class IngestAtlasOperator(GcaOperator):
    """Take a file with raw counts into the atlas that HAYSTACK draws its prompts from.

    Runs :func:`gca_core.atlas.ingest.ingest`; the options are the fields of
    :class:`gca_core.atlas.models.IngestConfig`. The same file again changes nothing; other content under the same
    name replaces the dataset in one transaction. A retry after the worker was killed goes on where it stopped, when
    it runs on the same machine. Returns the report: cells, genes and groups taken, and what could not be used.

    Fails at once, without a retry, when the file is missing, holds no counts or lacks a named column; the
    atlas is then as before. A database that can't be reached fails the task too, but a retry may follow.

    Args:
        gca_atlas_conn_id: connection of the atlas.
    """

    config_type = IngestConfig
    output_field = "dataset"
    asset_names = ("store",)
    template_fields_renderers: ClassVar[dict[str, str]] = {"perturbation_names": "json"}
    operator_extra_links = (AtlasLink(),)
    ui_color = "#f3e6da"

    def __init__(self, *, gca_atlas_conn_id: str = AtlasHook.default_conn_name, **kwargs: Any) -> None:
        self.gca_atlas_conn_id = gca_atlas_conn_id
        super().__init__(**kwargs)
        require_text(type(self).__name__, gca_atlas_conn_id=gca_atlas_conn_id)

    def values(self) -> dict[str, Any]:
        """The options that say something; "None" is a control where a column is named, as it may stand there."""
        found = super().values()
        if getattr(self, "control_value", None) == "None" and "perturbation_column" in found and "preset" not in found:
            found["control_value"] = "None"
        return found

    def work(self, context: Context) -> Any:  # noqa: ARG002
        """Ingest."""
        from gca_core.atlas.ingest import ingest
        from gca_core.atlas.ingest.names import load_name_resolver
        from gca_core.llm.embeddings import open_embeddings

        config = make_model(type(self).__name__, IngestConfig, self.values())
        atlas = AtlasHook(self.gca_atlas_conn_id, role="admin").get_conn()
        embeddings = open_embeddings()
        return ingest(
            config,
            atlas,
            embed=embeddings.embed_documents,
            resolver=load_name_resolver(),
            embedding_model=embeddings.model,
        )

    def outputs(self, result: Any) -> dict[str, str]:
        """The expression files in the atlas's store."""
        return {"store": result["store_uri"]}

    def rows(self, result: Any) -> dict[str, int]:
        """Cells taken."""
        return {"store": result["n_cells"]}

    def metrics(self, result: Any) -> dict[str, Any]:
        """How much was taken."""
        return {name: result[name] for name in ("dataset", "n_cells", "n_genes", "n_groups", "unchanged")}
