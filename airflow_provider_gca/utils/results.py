"""What a task tells Airflow of its results: links to open, events of assets, and lineage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from airflow.sdk import Asset, AssetAlias, BaseOperatorLink

from airflow_provider_gca.utils.place import is_shown, page_url, result_url

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import (  # type: ignore[import-not-found,unused-ignore]
        OperatorLineage,
    )
    from airflow.sdk import BaseOperator, Context
    from airflow.sdk.types import TaskInstanceKey

# of an asset's URI, Airflow keeps ASCII only
_KEPT = ":/?#[]@!$&'()*+,;=%~"
FACET = "gca"


class ReportLink(BaseOperatorLink):
    """Links to the HTML report that the task wrote.

    Airflow asks for the link on the worker when the task ends and keeps it in the XCom ``gca_report_link``;
    the operator holds the report's URI in ``report_uri`` by then.
    """

    name = "Report"
    xcom_key = "gca_report_link"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """The page of the plugin or of the Cloud Console that shows it; empty where none does."""
        return _shown(operator, ti_key, "report")


class FigureLink(BaseOperatorLink):
    """Links to the figure that the task drew, ``figure_uri``, as :class:`ReportLink` does to the report."""

    name = "Figure"
    xcom_key = "gca_figure_link"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """The page of the plugin or of the Cloud Console that shows it; empty where none does."""
        return _shown(operator, ti_key, "figure")


class BatchJobLink(BaseOperatorLink):
    """Links to the job's page in the Google Cloud console, from its submission on."""

    name = "Batch job"
    xcom_key = "gca_batch_job_link"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002
        """The page, or an empty text where the task ran locally."""
        return getattr(operator, "batch_job_url", None) or ""


class BatchLogsLink(BaseOperatorLink):
    """Links to the job's log in the Logs Explorer, as :class:`BatchJobLink` does to the job."""

    name = "Batch log"
    xcom_key = "gca_batch_logs_link"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002
        """The page, or an empty text where the task ran locally."""
        return getattr(operator, "batch_logs_url", None) or ""


class RunLink(BaseOperatorLink):
    """Links to the page of the HAYSTACK run that a task works on or waits for."""

    name = "HAYSTACK run"
    xcom_key = "gca_run_link"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002
        """The page, or an empty text where the run isn't known."""
        run_id = getattr(operator, "haystack_run_id", None)
        return page_url(f"runs/{quote(run_id, safe='')}") if run_id else ""


class AtlasLink(BaseOperatorLink):
    """Links to the dataset's groups in the atlas explorer."""

    name = "Atlas"
    xcom_key = "gca_atlas_link"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002
        """The page, narrowed to the dataset."""
        return page_url(f"atlas?dataset={quote(str(getattr(operator, 'dataset', None) or ''), safe='')}")


def run_page(run_id: str, base_url: str | None = None) -> str | None:
    """The address of a HAYSTACK run's page; None where neither ``base_url`` nor Airflow's settings say where it is."""
    return page_url(f"runs/{quote(run_id, safe='')}", absolute=True, base_url=base_url) or None


def _shown(operator: BaseOperator, ti_key: TaskInstanceKey, kind: str) -> str:
    uri = getattr(operator, f"{kind}_uri", None) or ""
    if uri and is_shown(uri):
        return result_url(ti_key.dag_id, ti_key.run_id, ti_key.task_id, ti_key.map_index, kind)
    # the Cloud Console's storage page; a browser opens nothing of a worker's disk
    return f"https://storage.cloud.google.com/{quote(uri.removeprefix('gs://'))}" if uri.startswith("gs://") else ""


def with_alias(arguments: Mapping[str, Any], alias: str | None) -> dict[str, Any]:
    """An operator's arguments, with the alias among its outlets."""
    if alias is None:
        return dict(arguments)
    outlets = arguments.get("outlets") or []
    listed = list(outlets) if isinstance(outlets, list | tuple) else [outlets]
    return {**arguments, "outlets": [*listed, AssetAlias(alias)]}


def note_assets(
    context: Context, alias: str | None, outlets: Iterable[Any], artefacts: Mapping[str, str], extra: Mapping[str, Any]
) -> None:
    """Make each artefact an event of the asset with its URI, under the alias.

    The events of assets that the DAG's author named as outlets get the same extra.
    """
    if alias is not None:
        events = context["outlet_events"][AssetAlias(alias)]
        for name, uri in artefacts.items():
            events.add(Asset(quote(uri, safe=_KEPT)), extra={"artefact": name, **extra})
    for outlet in outlets:
        if isinstance(outlet, Asset):
            context["outlet_events"][outlet].extra.update(extra)


def dataset_name(uri: str) -> tuple[str, str]:
    """Namespace and name of a URI, as OpenLineage's naming has them: ``gs://bucket`` and the object, or ``file``."""
    if "://" not in uri:
        return "file", uri
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return "file", unquote(parts.path)
    # the object's name may hold ? and #, which urlsplit takes for its own
    return f"{parts.scheme}://{parts.netloc}", uri.removeprefix(f"{parts.scheme}://{parts.netloc}").lstrip("/") or "/"


def lineage(
    inputs: Sequence[str],
    outputs: Mapping[str, str],
    *,
    rows: Mapping[str, int],
    metrics: Mapping[str, Any],
    run: Mapping[str, Any],
) -> OperatorLineage:
    """The datasets that a task read and wrote, with what it found, for OpenLineage.

    Args:
        inputs: URIs that were read.
        outputs: URIs that were written, by name.
        rows: how many cells or clusters an output holds, by the same name; its ``outputStatistics``.
        metrics: put on every output as the facet ``gca``.
        run: put on the run as the facet ``gca``.
    """
    from airflow.providers.common.compat.openlineage.facet import (
        DatasetFacet,
        InputDataset,
        OutputDataset,
        OutputStatisticsOutputDatasetFacet,
        RunFacet,
    )
    from airflow.providers.openlineage.extractors import OperatorLineage

    written = []
    for name, uri in outputs.items():
        namespace, path = dataset_name(uri)
        counts = OutputStatisticsOutputDatasetFacet(rowCount=rows[name], fileCount=1) if name in rows else None
        written.append(
            OutputDataset(
                namespace=namespace,
                name=path,
                facets={FACET: DatasetFacet().with_additional_properties(artefact=name, **metrics)},
                outputFacets={} if counts is None else {"outputStatistics": counts},
            )
        )
    return OperatorLineage(
        inputs=[InputDataset(*dataset_name(uri)) for uri in inputs],
        outputs=written,
        run_facets={FACET: RunFacet().with_additional_properties(**run)} if run else {},
    )
