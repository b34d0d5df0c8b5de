"""The operator that labels the clusters of an AnnData file, or judges the labels that are there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_gca.hooks.llm import LlmHook
from airflow_provider_gca.operators.base import GcaOperator
from airflow_provider_gca.utils.fields import (
    as_flag,
    as_mapping,
    check_literals,
    given,
    given_within,
    is_literal,
    make_model,
)
from airflow_provider_gca.utils.results import FigureLink, ReportLink
from gca_core.annotation.config import AnnotationConfig
from gca_core.errors import ConfigurationError

if TYPE_CHECKING:
    from airflow.sdk import Context

    from gca_core.llm.models import LlmConfig

PRESET_FIELDS = ("preset", "species", "tissue")
METRICS = ("n_clusters", "n_flagged", "n_cells", "n_genes", "annotator", "model", "marker_database_sha256")


class AnnotateAnnDataOperator(GcaOperator):
    """Label the clusters of an AnnData file, and write it with the labels, JSON, CSV, HTML and a figure.

    Runs :func:`gca_core.annotation.run.annotate_file` in the worker's process, or with ``validate_only``
    :func:`gca_core.annotation.validate.validate_file`, which judges labels and changes none. Returns the result:
    URIs, number of clusters and cells, how many are flagged, agreement with known labels where a column was named,
    seconds, versions. The task's ``Report`` button leads to the HTML report, ``Figure`` to the UMAP.

    With nothing configured it works offline. A model is asked where the connection ``gca_llm_conn_id`` exists, or
    ``GCA_LLM`` names one; its key goes into neither XCom nor rendered fields, logs or reports.

    With ``asset_alias`` the annotated file becomes an event of the asset with its URI under that alias, with the
    numbers as its extra, so that other DAGs can wait for it. The events of assets that are named as ``outlets`` get
    the same extra.

    Where Airflow's OpenLineage provider is installed, it is told what was read and written, and the same numbers.

    Fails at once, without a retry, when the file is missing, a named column is not in it, its matrix is scaled or
    ambiguous, or an option doesn't fit; nothing is written then. A task that is killed leaves the results of before.

    Args:
        validate_only: judge the labels of ``labels_key`` instead.
        offline: call no model, whatever is configured.
        gca_llm_conn_id: connection of the model. Where the default one does not exist, ``GCA_LLM`` decides; None, or
            a template that renders to nothing, means no model.
        llm_options: how the model is asked, as :class:`gca_core.annotation.llm.models.LlmOptions` has it: ``budget``,
            ``chunk_size``, ``use_cache``, ``cache_dir``, ``prices``, ``chat``.
    """

    config_type = AnnotationConfig
    input_fields = ("input_uri", "marker_db", "vocabulary", "corrections", "reference")
    asset_names = ("h5ad", "zarr")
    report_name, figure_name = "html", "figure"
    template_fields_renderers: ClassVar[dict[str, str]] = {"llm_options": "json"}
    operator_extra_links = (ReportLink(), FigureLink())
    ui_color = "#dbe7f3"

    def __init__(
        self,
        *,
        validate_only: bool | str = False,
        offline: bool | str = False,
        gca_llm_conn_id: str | None = LlmHook.default_conn_name,
        llm_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.validate_only = validate_only
        self.offline = offline
        self.gca_llm_conn_id = gca_llm_conn_id
        self.llm_options = llm_options
        super().__init__(**kwargs)

    def checked_values(self) -> dict[str, Any]:
        """All; but what a preset means is compared with the others when all are known."""
        values = self.values()
        waits = not all(is_literal(values.get(field)) for field in PRESET_FIELDS)
        return {name: value for name, value in values.items() if not (waits and name in PRESET_FIELDS)}

    def _check(self) -> None:
        from gca_core.annotation.llm.models import LlmOptions

        super()._check()
        name = type(self).__name__
        check_literals(f"{name}: llm_options", LlmOptions, self._llm_values())
        flags = {flag: getattr(self, flag) for flag in ("validate_only", "offline")}
        literal = {flag: as_flag(name, flag, value) for flag, value in flags.items() if is_literal(value)}
        if literal.get("validate_only"):
            self._check_validation()

    def _check_validation(self) -> None:
        name = type(self).__name__
        values = self.values()
        if "labels_key" not in values:
            raise ConfigurationError(f"{name}: validate_only needs labels_key, the labels to judge")
        changing = ("corrections", "vocabulary", "reference", "opinion_column", "consensus")
        if named := [name for name in changing if name in values]:
            raise ConfigurationError(f"{name}: validate_only changes no label; leave {' and '.join(named)} out")

    def _llm_values(self) -> dict[str, Any]:
        return given_within(as_mapping(type(self).__name__, "llm_options", self.llm_options))

    def work(self, context: Context) -> Any:
        """Annotate, or validate."""
        from gca_core.config import load_settings

        name, settings = type(self).__name__, load_settings()
        defaults = {"marker_db": settings.marker_db_path, "seed": settings.seed}
        own = {**self.values(), "request_id": self.request_name(context)}
        config = make_model(name, AnnotationConfig, {**given(defaults), **given(own)})
        if as_flag(name, "validate_only", self.validate_only):
            self._check_validation()
            from gca_core.annotation.validate import validate_file

            return validate_file(config)
        from gca_core.annotation.llm.models import LlmOptions
        from gca_core.annotation.run import annotate_file

        model = self._model()
        self.log.info("%s", "works offline: no model is named" if model is None else f"asks {model.name}")
        options = make_model(f"{name}: llm_options", LlmOptions, self._llm_values())
        return annotate_file(config, model=model, llm_options=options)

    def _model(self) -> LlmConfig | None:
        conn_id = given({"id": self.gca_llm_conn_id}).get("id")
        if conn_id is None or as_flag(type(self).__name__, "offline", self.offline):
            return None
        return LlmHook(conn_id).get_conn()

    def inputs(self) -> list[str]:
        """URIs that are read; bundled names are none."""
        from gca_core.annotation.labels.vocabulary import BUNDLED

        return [uri for uri in super().inputs() if uri not in BUNDLED]

    def rows(self, result: Any) -> dict[str, int]:
        """Cells of the annotated file, clusters of the table."""
        return {**dict.fromkeys(self.asset_names, result["n_cells"]), "csv": result["n_clusters"]}

    def metrics(self, result: Any) -> dict[str, Any]:
        """How many clusters and cells, what is flagged, by which annotator, and the agreement."""
        shares = {name: value for name, value in (result.get("agreement") or {}).items() if isinstance(value, float)}
        request = (result.get("stats") or {}).get("request_id")
        return {**{n: result.get(n) for n in METRICS}, "agreement": shares or None, "request_id": request or None}
