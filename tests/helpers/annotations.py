"""Annotations and reports with values that a test need not name."""

from typing import Any

from gca_core.annotation.models import (
    Annotation,
    Confidence,
    DatasetReport,
    Evidence,
    MarkerDatabaseInfo,
    Status,
)


def make_annotation(cluster: str, label: str, *, flagged: bool = False, **fields: Any) -> Annotation:
    """The label of a cluster; a flagged one has low confidence."""
    given = {
        "n_cells": 10,
        "ontology_id": None,
        "confidence": Confidence.LOW if flagged else Confidence.HIGH,
        "status": Status.FLAGGED if flagged else Status.SUPPORTED,
        "flag_reasons": (),
        "rationale": "markers",
        "caveats": (),
        "alternatives": (),
        "markers": ("MS4A1",),
        "proposed_label": None,
        "evidence": Evidence(),
    }
    return Annotation(cluster=cluster, primary_label=label, **given | fields)


def make_report(*annotations: Annotation, **fields: Any) -> DatasetReport:
    """A report of clusters, with as many cells as they have."""
    given = {
        "n_cells": sum(a.n_cells or 0 for a in annotations),
        "n_genes": 100,
        "cluster_key": "k",
        "clusters_computed": False,
        "species": "human",
        "tissue": None,
        "prefix": "gptca_",
        "matrix": "X (log-normalised)",
        "ranking": "t-test",
        "top_n_markers": 30,
        "seed": 7,
        "marker_database": MarkerDatabaseInfo(name="bundled", sha256="ab" * 32, n_types=2, n_markers=9),
        "ontology_version": "2026-03-26",
        "agreement": None,
        "versions": {"scanpy": "1.11"},
    }
    return DatasetReport(annotations=annotations, **given | fields)
