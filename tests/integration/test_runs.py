"""Run records on a real server."""

from __future__ import annotations

import pytest

from gca_core.errors import StoreError
from gca_core.runs.models import IterationRow, RunPhase, RunRow, RunStatus
from gca_core.runs.store import RunStore


@pytest.fixture
def runs(embedded_dsn: str) -> RunStore:
    return RunStore(embedded_dsn)


def test_a_run_is_written_once_and_then_changed(runs: RunStore) -> None:
    row = RunRow(run_id="r1", question="q'; drop table runs; --", results_uri="file:///r", config={"iterations": 3})
    runs.upsert_run(row)
    first = runs.get("r1")
    assert first is not None
    assert first.model_copy(update={"created_at": None, "updated_at": None}) == row
    runs.upsert_run(row.model_copy(update={"status": RunStatus.SUCCEEDED, "phase": RunPhase.DONE, "best_score": 7.5}))
    second = runs.get("r1")
    assert second is not None
    assert (second.status, second.phase, second.best_score) == (RunStatus.SUCCEEDED, RunPhase.DONE, 7.5)
    assert second.created_at == first.created_at
    assert second.updated_at is not None
    assert first.updated_at is not None
    assert second.updated_at > first.updated_at
    assert runs.get("unknown") is None
    assert [found.run_id for found in runs.list_runs() if found.run_id == "r1"] == ["r1"]


def test_iterations_are_one_row_each_and_in_order(runs: RunStore) -> None:
    runs.upsert_run(RunRow(run_id="r2", question="q", results_uri="file:///r"))
    for iteration, score in ((1, 5.0), (0, 3.0), (1, 6.0)):
        runs.upsert_iteration("r2", iteration, IterationRow(score=score, record={"n": iteration}))
    assert [(row.iteration, row.score, row.record) for row in runs.iterations("r2")] == [
        (0, 3.0, {"n": 0}),
        (1, 6.0, {"n": 1}),
    ]
    with pytest.raises(StoreError, match="no run 'nobody'"):
        runs.upsert_iteration("nobody", 0, IterationRow())


def test_cutting_back_forgets_what_is_recomputed(runs: RunStore) -> None:
    runs.upsert_run(
        RunRow(
            run_id="r3",
            question="q",
            results_uri="file:///r",
            status=RunStatus.SUCCEEDED,
            phase=RunPhase.DONE,
            best_score=9.0,
            best_iteration=2,
            termination_reason="threshold",
            state_uri="s3",
        )
    )
    for iteration, score in enumerate((4.0, 4.0, 9.0)):
        runs.upsert_iteration("r3", iteration, IterationRow(score=score, state_uri=f"s{iteration + 1}"))
    assert runs.cut_back("r3", 2) == 1
    row = runs.get("r3")
    assert row is not None
    assert (row.status, row.best_score, row.best_iteration) == (RunStatus.RUNNING, 4.0, 0)
    assert (row.termination_reason, row.state_uri) == (None, "s2")
    assert runs.cut_back("r3", 0) == 2
    row = runs.get("r3")
    assert row is not None
    assert (row.best_score, row.best_iteration, row.state_uri) == (None, None, None)
    assert runs.cut_back("nobody", 0) == 0


def test_the_record_store_shows_no_password(runs: RunStore, embedded_dsn: str) -> None:
    assert "password" not in repr(runs)
