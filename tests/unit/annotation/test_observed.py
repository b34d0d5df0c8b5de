import json
import logging
import sys

import pytest

from gca_core.annotation import AnnotationConfig, annotate_file
from gca_core.annotation.lists import annotate_from_markers
from gca_core.errors import DataValidationError
from gca_core.observability import RequestIdFilter, bind_request, current_request_id

LISTS = {"1": "CD3D, CD3E, CD3G, IL7R, TRAC, CD2", "2": "MS4A1, CD79A, CD79B, CD19, BANK1, CD22"}


@pytest.fixture
def records():
    """The records of the core's log, as a handler with the request filter gets them."""
    seen = []

    class Keep(logging.Handler):
        def emit(self, record):
            seen.append(record)

    handler, logger = Keep(), logging.getLogger("gca_core")
    handler.addFilter(RequestIdFilter())
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield seen
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.fixture
def grown():
    """By how much a counter has grown since the test began."""
    client = pytest.importorskip("prometheus_client")

    def value(name: str, **labels: str) -> float:
        return client.REGISTRY.get_sample_value(name, labels) or 0.0

    from gca_core.observability import count_run

    count_run(seconds=0.0)
    watched = [
        ("gca_runs_total", {"outcome": "ok"}),
        ("gca_runs_total", {"outcome": "failed"}),
        ("gca_clusters_annotated_total", {}),
    ]
    before = {(name, *labels.values()): value(name, **labels) for name, labels in watched}
    return lambda name, *labels: value(name, **({"outcome": labels[0]} if labels else {})) - before[(name, *labels)]


def test_the_request_id_is_in_the_log_and_in_the_report(records):
    report = annotate_from_markers(LISTS, request_id="nightly-7")
    assert report.stats.request_id == "nightly-7"
    assert {record.request_id for record in records} == {"nightly-7"}
    assert current_request_id() is None


def test_a_run_inside_a_request_is_part_of_it(records):
    with bind_request("service-1"):
        assert annotate_from_markers(LISTS).stats.request_id == "service-1"
    assert {record.request_id for record in records} == {"service-1"}


def test_the_environment_names_runs_that_nobody_named(monkeypatch):
    monkeypatch.setenv("GCA_REQUEST_ID", "job-12")
    assert annotate_from_markers(LISTS).stats.request_id == "job-12"
    monkeypatch.delenv("GCA_REQUEST_ID")
    ids = {annotate_from_markers(LISTS).stats.request_id for _ in range(2)}
    assert len(ids) == 2
    assert "" not in ids


def test_a_file_is_one_run_though_it_has_steps(simulated, tmp_path, records, grown):
    cells = simulated.copy()
    cells.obsm["X_umap"] = cells.X[:, :2]
    cells.write_h5ad(tmp_path / "cells.h5ad")
    config = AnnotationConfig(
        input_uri=str(tmp_path / "cells.h5ad"),
        output_uri=str(tmp_path / "out"),
        cluster_key="truth",
        request_id="file-1",
    )
    result = annotate_file(config)
    assert result.stats.request_id == "file-1"
    assert json.loads((tmp_path / "out" / "report.json").read_text())["stats"]["request_id"] == "file-1"
    assert {record.request_id for record in records} == {"file-1"}
    assert grown("gca_runs_total", "ok") == 1
    assert grown("gca_clusters_annotated_total") == 5


def test_a_run_that_fails_is_counted_once(tmp_path, grown):
    config = AnnotationConfig(input_uri=str(tmp_path / "none.h5ad"), output_uri=str(tmp_path / "out"))
    with pytest.raises(DataValidationError):
        annotate_file(config)
    assert (grown("gca_runs_total", "failed"), grown("gca_runs_total", "ok")) == (1, 0)


def test_annotating_needs_neither_structlog_nor_prometheus(monkeypatch):
    from gca_core import observability

    for module in ("structlog", "structlog.contextvars", "prometheus_client"):
        monkeypatch.setitem(sys.modules, module, None)
    # counters that other tests made stay theirs
    monkeypatch.setattr(observability, "_made_metrics", observability._made_metrics.__wrapped__)
    assert annotate_from_markers(LISTS, request_id="bare").stats.request_id == "bare"
