"""What OpenLineage is told; imported by the operators' lineage methods alone, which that provider calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import (  # type: ignore[import-not-found,unused-ignore]
        OperatorLineage,
    )

FACET = "gca_annotation"


def dataset_name(uri: str) -> tuple[str, str]:
    """Namespace and name of a URI, as OpenLineage's naming has them: ``gs://bucket`` and the object, or ``file``."""
    if "://" not in uri:
        return "file", uri
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return "file", unquote(parts.path)
    # the object's name may hold ? and #, which urlsplit takes for its own
    return f"{parts.scheme}://{parts.netloc}", uri.removeprefix(f"{parts.scheme}://{parts.netloc}").lstrip("/") or "/"


def annotation_lineage(
    inputs: Sequence[str],
    outputs: Mapping[str, str],
    *,
    rows: Mapping[str, int] | None = None,
    figures: Mapping[str, Any] | None = None,
    run: Mapping[str, Any] | None = None,
) -> OperatorLineage:
    """The datasets that a task read and wrote, with what it found.

    Args:
        inputs: URIs that were read.
        outputs: URIs that were written, by name.
        rows: how many cells or clusters an output holds, by the same name; its ``outputStatistics``.
        figures: put on every output as the facet ``gca_annotation``.
        run: put on the run as the facet ``gca_annotation``.
    """
    from airflow.providers.common.compat.openlineage.facet import (
        DatasetFacet,
        InputDataset,
        OutputDataset,
        OutputStatisticsOutputDatasetFacet,
        RunFacet,
    )
    from airflow.providers.openlineage.extractors import OperatorLineage

    known = rows or {}
    written = []
    for name, uri in outputs.items():
        namespace, path = dataset_name(uri)
        facets = {FACET: DatasetFacet().with_additional_properties(artefact=name, **figures)} if figures else {}
        counts = OutputStatisticsOutputDatasetFacet(rowCount=known[name], fileCount=1) if name in known else None
        written.append(
            OutputDataset(
                namespace=namespace,
                name=path,
                facets=facets,
                outputFacets={} if counts is None else {"outputStatistics": counts},
            )
        )
    return OperatorLineage(
        inputs=[InputDataset(*dataset_name(uri)) for uri in inputs],
        outputs=written,
        run_facets={FACET: RunFacet().with_additional_properties(**run)} if run else {},
    )
