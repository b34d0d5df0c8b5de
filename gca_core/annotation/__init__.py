"""Cell types for clusters and cells, from marker genes and the Cell Ontology."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gca_core.annotation.asynchronous import (
        annotate_anndata_async,
        annotate_from_markers_async,
        annotate_rank_genes_async,
        validate_anndata_async,
    )
    from gca_core.annotation.clusters import annotate_anndata, annotate_rank_genes
    from gca_core.annotation.config import AnnotationConfig
    from gca_core.annotation.labels.corrections import Corrections, load_corrections
    from gca_core.annotation.labels.single_cells import annotate_cells
    from gca_core.annotation.labels.vocabulary import Vocabulary, read_vocabulary
    from gca_core.annotation.lists import annotate_from_markers
    from gca_core.annotation.llm.models import LlmOptions
    from gca_core.annotation.markers.database import MarkerDatabase
    from gca_core.annotation.markers.load import load_marker_database
    from gca_core.annotation.models import (
        Annotation,
        ClusterMarkers,
        Confidence,
        DatasetReport,
        FlagReason,
        Override,
        RunStats,
        Status,
    )
    from gca_core.annotation.run import AnnotationResult, annotate_file
    from gca_core.annotation.validate import validate_anndata, validate_file

__all__ = [
    "Annotation",
    "AnnotationConfig",
    "AnnotationResult",
    "ClusterMarkers",
    "Confidence",
    "Corrections",
    "DatasetReport",
    "FlagReason",
    "LlmOptions",
    "MarkerDatabase",
    "Override",
    "RunStats",
    "Status",
    "Vocabulary",
    "annotate_anndata",
    "annotate_anndata_async",
    "annotate_cells",
    "annotate_file",
    "annotate_from_markers",
    "annotate_from_markers_async",
    "annotate_rank_genes",
    "annotate_rank_genes_async",
    "load_corrections",
    "load_marker_database",
    "read_vocabulary",
    "validate_anndata",
    "validate_anndata_async",
    "validate_file",
]

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


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
