"""Cell types for clusters and cells, from marker genes and the Cell Ontology."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gca_core.annotation.asynchronous import annotate_anndata_async as annotate_anndata_async
    from gca_core.annotation.asynchronous import annotate_from_markers_async as annotate_from_markers_async
    from gca_core.annotation.asynchronous import annotate_rank_genes_async as annotate_rank_genes_async
    from gca_core.annotation.asynchronous import validate_anndata_async as validate_anndata_async
    from gca_core.annotation.clusters import annotate_anndata as annotate_anndata
    from gca_core.annotation.clusters import annotate_rank_genes as annotate_rank_genes
    from gca_core.annotation.config import AnnotationConfig as AnnotationConfig
    from gca_core.annotation.labels.corrections import Corrections as Corrections
    from gca_core.annotation.labels.corrections import load_corrections as load_corrections
    from gca_core.annotation.labels.single_cells import annotate_cells as annotate_cells
    from gca_core.annotation.labels.vocabulary import Vocabulary as Vocabulary
    from gca_core.annotation.labels.vocabulary import read_vocabulary as read_vocabulary
    from gca_core.annotation.lists import annotate_from_markers as annotate_from_markers
    from gca_core.annotation.llm.models import LlmOptions as LlmOptions
    from gca_core.annotation.markers.database import MarkerDatabase as MarkerDatabase
    from gca_core.annotation.markers.load import load_marker_database as load_marker_database
    from gca_core.annotation.models import Annotation as Annotation
    from gca_core.annotation.models import ClusterMarkers as ClusterMarkers
    from gca_core.annotation.models import Confidence as Confidence
    from gca_core.annotation.models import DatasetReport as DatasetReport
    from gca_core.annotation.models import FlagReason as FlagReason
    from gca_core.annotation.models import Override as Override
    from gca_core.annotation.models import RunStats as RunStats
    from gca_core.annotation.models import Status as Status
    from gca_core.annotation.opinions.by_reference import annotate_by_reference as annotate_by_reference
    from gca_core.annotation.run import AnnotationResult as AnnotationResult
    from gca_core.annotation.run import annotate_file as annotate_file
    from gca_core.annotation.validate import validate_anndata as validate_anndata
    from gca_core.annotation.validate import validate_file as validate_file

_HOMES = {
    "Annotation": "models",
    "AnnotationConfig": "config",
    "AnnotationResult": "run",
    "ClusterMarkers": "models",
    "Confidence": "models",
    "Corrections": "labels.corrections",
    "DatasetReport": "models",
    "FlagReason": "models",
    "LlmOptions": "llm.models",
    "MarkerDatabase": "markers.database",
    "Override": "models",
    "RunStats": "models",
    "Status": "models",
    "Vocabulary": "labels.vocabulary",
    "annotate_anndata": "clusters",
    "annotate_anndata_async": "asynchronous",
    "annotate_by_reference": "opinions.by_reference",
    "annotate_cells": "labels.single_cells",
    "annotate_file": "run",
    "annotate_from_markers": "lists",
    "annotate_from_markers_async": "asynchronous",
    "annotate_rank_genes": "clusters",
    "annotate_rank_genes_async": "asynchronous",
    "load_corrections": "labels.corrections",
    "load_marker_database": "markers.load",
    "read_vocabulary": "labels.vocabulary",
    "validate_anndata": "validate",
    "validate_anndata_async": "asynchronous",
    "validate_file": "validate",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
