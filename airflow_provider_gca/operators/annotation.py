"""The operator that labels the clusters of an AnnData file, or judges the labels that are there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator

from airflow_provider_gca.hooks.llm import LlmHook
from airflow_provider_gca.utils.assets import describe_outlets, note_assets, with_alias
from airflow_provider_gca.utils.failures import as_task_failure
from airflow_provider_gca.utils.fields import (
    as_flag,
    as_mapping,
    check_literals,
    given,
    given_within,
    is_literal,
    make_model,
    require_text,
)
from airflow_provider_gca.utils.links import FigureLink, ReportLink
from gca_core.errors import ConfigurationError

if TYPE_CHECKING:
    from airflow.sdk import Context

    from gca_core.annotation.config import AnnotationConfig
    from gca_core.annotation.llm.models import LlmOptions
    from gca_core.annotation.run import AnnotationResult
    from gca_core.llm.models import LlmConfig

OWN_FIELDS = (
    "input_uri",
    "output_uri",
    "cluster_key",
    "preset",
    "species",
    "tissue",
    "label_column",
    "ontology_column",
    "marker_db",
    "vocabulary",
    "prefix",
    "top_n_markers",
    "layer",
    "corrections",
    "request_id",
)
PRESET_FIELDS = ("preset", "species", "tissue")
FIGURES = ("n_clusters", "n_flagged", "n_cells", "n_genes", "annotator", "model", "marker_database_sha256")
# of the annotated file
KINDS = ("h5ad", "zarr")
MAX_REQUEST_ID = 200


class AnnotateAnnDataOperator(BaseOperator):
    """Label the clusters of an AnnData file, and write it with the labels, JSON, CSV, HTML and a figure.

    Runs :func:`gca_core.annotation.run.annotate_file` in the worker's process, or with ``validate_only``
    :func:`gca_core.annotation.validate.validate_file`, which judges labels and changes none. Returns the result:
    URIs, number of clusters and cells, how many are flagged, agreement with known labels where a column was named,
    seconds, versions. The task's ``Report`` button leads to the HTML report, ``Figure`` to the UMAP.

    With nothing configured it works offline. A model is asked where the connection ``gca_llm_conn_id`` exists, or
    ``GCA_LLM`` names one; its key goes into neither XCom nor rendered fields, logs or reports.

    With ``asset_alias`` the annotated file becomes an event of the asset with its URI under that alias, with the
    figures as its extra, so that other DAGs can wait for it. The events of assets that are named as ``outlets`` get
    the same extra.

    Where Airflow's OpenLineage provider is installed, it is told what was read and written, and the figures.

    Fails at once, without a retry, when the file is missing, a named column is not in it, its matrix is scaled or
    ambiguous, or an option doesn't fit; nothing is written then. A task that is killed leaves the results of before.

    Args:
        input_uri: an h5ad, zarr or loom file, ``file://``, ``gs://`` or a path. Templated, like all that follow
            except ``asset_alias``.
        output_uri: folder for the results.
        cluster_key: column of obs with the clusters; None clusters the cells first.
        preset: ``human_pbmc``, ``mouse_pbmc`` or ``mouse_brain`` instead of species and tissue.
        species: ``human``, the default, or ``mouse``.
        tissue: tissue of the cells, where known.
        label_column: column of obs with known labels, to report agreement with, or to validate.
        ontology_column: column of obs with the Cell Ontology ids of those labels.
        marker_db: a marker table instead of ``GCA_MARKER_DB_PATH`` or the bundled one.
        vocabulary: names to write the labels in, too, in the column ``vocabulary_label``: ``broad``, or the URI of a
            table with the columns ``label`` and ``ontology_id``.
        prefix: prefix of the columns added to obs.
        top_n_markers: genes ranked per cluster.
        layer: the layer with expression values; None looks which matrix has them.
        corrections: URI of the corrections that ``gca review --apply`` wrote; they replace labels.
        request_id: names the run in logs and results; None makes it from DAG, task and DAG run.
        options: any other option of :class:`gca_core.annotation.config.AnnotationConfig`, such as ``seed``.
        validate_only: judge the labels of ``label_column`` instead.
        offline: call no model, whatever is configured.
        gca_llm_conn_id: connection of the model. Where the default one does not exist, ``GCA_LLM`` decides; None, or
            a template that renders to nothing, means no model.
        llm_options: how the model is asked, as :class:`gca_core.annotation.llm.models.LlmOptions` has it: ``budget``,
            ``chunk_size``, ``use_cache``, ``cache_dir``, ``prices``, ``chat``.
        gcp_conn_id: connection whose credentials open ``gs://`` URIs; None means the worker's own.
        asset_alias: name of the alias; None means no event of its own.
    """

    template_fields: Sequence[str] = (
        *OWN_FIELDS,
        "options",
        "validate_only",
        "offline",
        "gca_llm_conn_id",
        "llm_options",
        "gcp_conn_id",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"options": "json", "llm_options": "json"}
    operator_extra_links = (ReportLink(), FigureLink())
    ui_color = "#dbe7f3"

    def __init__(
        self,
        *,
        input_uri: str,
        output_uri: str,
        cluster_key: str | None = None,
        preset: str | None = None,
        species: str | None = None,
        tissue: str | None = None,
        label_column: str | None = None,
        ontology_column: str | None = None,
        marker_db: str | None = None,
        vocabulary: str | None = None,
        prefix: str | None = None,
        top_n_markers: int | str | None = None,
        layer: str | None = None,
        corrections: str | None = None,
        request_id: str | None = None,
        options: Mapping[str, Any] | None = None,
        validate_only: bool | str = False,
        offline: bool | str = False,
        gca_llm_conn_id: str | None = LlmHook.default_conn_name,
        llm_options: Mapping[str, Any] | None = None,
        gcp_conn_id: str | None = None,
        asset_alias: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**with_alias(kwargs, asset_alias))
        self.input_uri = input_uri
        self.output_uri = output_uri
        self.cluster_key = cluster_key
        self.preset = preset
        self.species = species
        self.tissue = tissue
        self.label_column = label_column
        self.ontology_column = ontology_column
        self.marker_db = marker_db
        self.vocabulary = vocabulary
        self.prefix = prefix
        self.top_n_markers = top_n_markers
        self.layer = layer
        self.corrections = corrections
        self.request_id = request_id
        self.options = options
        self.validate_only = validate_only
        self.offline = offline
        self.gca_llm_conn_id = gca_llm_conn_id
        self.llm_options = llm_options
        self.gcp_conn_id = gcp_conn_id
        self.asset_alias = asset_alias
        self.report_uri: str | None = None
        self.figure_uri: str | None = None
        self._result: dict[str, Any] | None = None
        self._running = False
        self._check()

    def _check(self) -> None:
        """Refuse what is wrong already when the DAG is parsed."""
        from gca_core.annotation.config import AnnotationConfig
        from gca_core.annotation.llm.models import LlmOptions

        name = type(self).__name__
        require_text(name, input_uri=self.input_uri, output_uri=self.output_uri)
        values = self._values()
        if not all(is_literal(values.get(field)) for field in PRESET_FIELDS):
            # what a preset means is compared with the others when all are known
            values = {field: value for field, value in values.items() if field not in PRESET_FIELDS}
        check_literals(name, AnnotationConfig, values)
        check_literals(f"{name}: llm_options", LlmOptions, self._llm_values())
        flags = {flag: getattr(self, flag) for flag in ("validate_only", "offline")}
        literal = {flag: as_flag(name, flag, value) for flag, value in flags.items() if is_literal(value)}
        if literal.get("validate_only"):
            self._check_validation()

    def _check_validation(self) -> None:
        name = type(self).__name__
        if not given({"label_column": self.label_column}):
            raise ConfigurationError(f"{name}: validate_only needs label_column, the labels to judge")
        if named := given({"corrections": self.corrections, "vocabulary": self.vocabulary}):
            raise ConfigurationError(f"{name}: validate_only changes no label; leave {' and '.join(named)} out")

    def _values(self) -> dict[str, Any]:
        options = as_mapping(type(self).__name__, "options", self.options)
        return {**given(options), **given({name: getattr(self, name) for name in OWN_FIELDS})}

    def _llm_values(self) -> dict[str, Any]:
        return given_within(as_mapping(type(self).__name__, "llm_options", self.llm_options))

    def execute(self, context: Context) -> dict[str, Any]:
        """Annotate, or validate, and return the result as JSON."""
        from airflow_provider_gca.utils.storage import credentials_of

        self._running = True
        try:
            with as_task_failure(), credentials_of(given({"id": self.gcp_conn_id}).get("id")):
                result = self._work(self._config(context)).model_dump(mode="json")
        finally:
            self._running = False
        self._result = result
        self.report_uri, self.figure_uri = result["uris"].get("html"), result["uris"].get("figure")
        figures = figures_of(result)
        annotated = {kind: result["uris"][kind] for kind in KINDS if kind in result["uris"]}
        note_assets(context, self.asset_alias, annotated, figures)
        describe_outlets(context, self.outlets, figures)
        return result

    def _config(self, context: Context) -> AnnotationConfig:
        from gca_core.annotation.config import AnnotationConfig
        from gca_core.config import load_settings

        settings = load_settings()
        defaults = {"marker_db": settings.marker_db_path, "seed": settings.seed, "request_id": request_id_of(context)}
        return make_model(type(self).__name__, AnnotationConfig, {**given(defaults), **self._values()})

    def _work(self, config: AnnotationConfig) -> AnnotationResult:
        if as_flag(type(self).__name__, "validate_only", self.validate_only):
            self._check_validation()
            from gca_core.annotation.validate import validate_file

            return validate_file(config)
        from gca_core.annotation.run import annotate_file

        model = self._model()
        self.log.info("%s", "works offline: no model is named" if model is None else f"asks {model.name}")
        return annotate_file(config, model=model, llm_options=self._llm_options())

    def _model(self) -> LlmConfig | None:
        conn_id = given({"id": self.gca_llm_conn_id}).get("id")
        if conn_id is None or as_flag(type(self).__name__, "offline", self.offline):
            return None
        return LlmHook(conn_id).get_conn()

    def _llm_options(self) -> LlmOptions:
        from gca_core.annotation.llm.models import LlmOptions

        return make_model(f"{type(self).__name__}: llm_options", LlmOptions, self._llm_values())

    def on_kill(self) -> None:
        """End the work where it is: no further model is asked, and what is half written goes."""
        if self._running:
            raise SystemExit("the task was killed; the results of before, if any, are as they were")

    def get_openlineage_facets_on_start(self) -> Any:
        """What will be read."""
        from airflow_provider_gca.utils.lineage import annotation_lineage
        from gca_core.annotation.labels.vocabulary import BUNDLED

        values = self._values()
        read = [values[name] for name in ("input_uri", "marker_db", "vocabulary", "corrections") if name in values]
        return annotation_lineage([uri for uri in read if uri not in BUNDLED], {})

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:  # noqa: ARG002
        """What was read and written, and the figures; after a failure, what was read."""
        if self._result is None:
            return self.get_openlineage_facets_on_start()
        from airflow_provider_gca.utils.lineage import annotation_lineage

        result, read = self._result, self.get_openlineage_facets_on_start()
        written = annotation_lineage(
            [],
            result["uris"],
            rows={**dict.fromkeys(KINDS, result["n_cells"]), "csv": result["n_clusters"]},
            figures=figures_of(result),
            run={name: result.get(name) for name in ("annotator", "model", "seed", "ontology_version", "versions")},
        )
        return read.merge(written)


def figures_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a result that go into the metadata of assets and lineage; plain JSON."""
    shares = {name: value for name, value in (result.get("agreement") or {}).items() if isinstance(value, float)}
    stats = result.get("stats") or {}
    figures = {name: result.get(name) for name in FIGURES}
    return {**figures, "agreement": shares or None, "request_id": stats.get("request_id") or None}


def request_id_of(context: Context) -> str | None:
    """A name for this task's run: DAG, task, DAG run and map index; None outside of Airflow's runs."""
    instance = context.get("ti")
    if instance is None:
        return None
    parts = [instance.dag_id, instance.task_id, instance.run_id]
    if (index := getattr(instance, "map_index", -1)) is not None and index >= 0:
        parts.append(str(index))
    text = re.sub(r"[^A-Za-z0-9._:+@=-]", "-", ".".join(parts)).lstrip("._:+@=-")
    return text[-MAX_REQUEST_ID:].lstrip("._:+@=-") or None
