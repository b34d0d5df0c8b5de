"""Cell types for clusters and cells, from marker genes and the Cell Ontology."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gca_core.annotation.cells import annotate_cells
    from gca_core.annotation.clusters import annotate_anndata
    from gca_core.annotation.markers import MarkerDatabase, load_marker_database
    from gca_core.annotation.models import Annotation, ClusterMarkers, DatasetReport
    from gca_core.annotation.run import AnnotationConfig, AnnotationResult, annotate_file

__all__ = [
    "Annotation",
    "AnnotationConfig",
    "AnnotationResult",
    "ClusterMarkers",
    "DatasetReport",
    "MarkerDatabase",
    "annotate_anndata",
    "annotate_cells",
    "annotate_file",
    "load_marker_database",
]

_HOMES = {
    "Annotation": "models",
    "AnnotationConfig": "run",
    "AnnotationResult": "run",
    "ClusterMarkers": "models",
    "DatasetReport": "models",
    "MarkerDatabase": "markers",
    "annotate_anndata": "clusters",
    "annotate_cells": "cells",
    "annotate_file": "run",
    "load_marker_database": "markers",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
