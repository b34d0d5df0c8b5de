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
    from gca_core.annotation.cells import annotate_cells
    from gca_core.annotation.clusters import annotate_anndata, annotate_rank_genes
    from gca_core.annotation.config import AnnotationConfig
    from gca_core.annotation.lists import annotate_from_markers
    from gca_core.annotation.llm_models import LlmOptions
    from gca_core.annotation.markers import MarkerDatabase, load_marker_database
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
    from gca_core.annotation.review import Corrections, load_corrections
    from gca_core.annotation.run import AnnotationResult, annotate_file
    from gca_core.annotation.validate import validate_anndata, validate_file
    from gca_core.annotation.vocabulary import Vocabulary, read_vocabulary

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
    "Corrections": "review",
    "DatasetReport": "models",
    "FlagReason": "models",
    "LlmOptions": "llm_models",
    "MarkerDatabase": "markers",
    "Override": "models",
    "RunStats": "models",
    "Status": "models",
    "Vocabulary": "vocabulary",
    "annotate_anndata": "clusters",
    "annotate_anndata_async": "asynchronous",
    "annotate_cells": "cells",
    "annotate_file": "run",
    "annotate_from_markers": "lists",
    "annotate_from_markers_async": "asynchronous",
    "annotate_rank_genes": "clusters",
    "annotate_rank_genes_async": "asynchronous",
    "load_corrections": "review",
    "load_marker_database": "markers",
    "read_vocabulary": "vocabulary",
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
