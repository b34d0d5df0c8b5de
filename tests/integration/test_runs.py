"""Run records on a real server."""

import json
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gca_core.atlas import IngestConfig, IngestReport
from gca_core.cli.tools.runs import app
from gca_core.errors import DataValidationError, StoreError
from gca_core.runs.models import Claim, IterationRow, RunPhase, RunRow, RunStatus
from gca_core.runs.store import RunStore
from gca_core.store.connect import connect
from tests.helpers.atlas_cells import in_python, ingest_config, make_cells

TakeIn = Callable[[IngestConfig], IngestReport]


@pytest.fixture
def runs(embedded_dsn: str) -> RunStore:
    return RunStore(embedded_dsn)


def test_a_run_is_written_once_and_then_changed(runs: RunStore) -> None:
    row = RunRow(run_id="r1", question="q'; drop table runs; --", results_uri="file:///r", config={"iterations": 3})
    runs.upsert_run(row)
    first = runs.get("r1")
    assert first.model_dump(include={"question", "config", "status"}) == row.model_dump(
        include={"question", "config", "status"}
    )
    runs.upsert_run(
        row.model_copy(update={"status": RunStatus.COMPLETED, "phase": RunPhase.OUTPUT_GENERATION, "best_score": 7.5})
    )
    second = runs.get("r1")
    assert (second.status, second.phase, second.best_score) == (RunStatus.COMPLETED, RunPhase.OUTPUT_GENERATION, 7.5)
    assert second.created_at == first.created_at
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
            status=RunStatus.COMPLETED,
            phase=RunPhase.OUTPUT_GENERATION,
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
    assert (row.status, row.best_score, row.best_iteration) == (RunStatus.RUNNING, 4.0, 0)
    assert (row.termination_reason, row.state_uri) == (None, "s2")
    assert runs.cut_back("r3", 0) == 2
    row = runs.get("r3")
    assert (row.best_score, row.best_iteration, row.state_uri) == (None, None, None)
    assert runs.cut_back("nobody", 0) == 0


def test_of_many_that_begin_a_run_at_once_one_gets_it(runs: RunStore) -> None:
    row = RunRow(run_id="r4", question="q", results_uri="file:///r4", status=RunStatus.RUNNING)

    def begin(number: int) -> str:
        try:
            runs.begin(row, Claim(owner=f"pid {number}"))
        except StoreError as error:
            return str(error)
        return "begun"

    with ThreadPoolExecutor(8) as pool:
        said = sorted(pool.map(begin, range(8)))
    assert said[0] == "begun"
    assert all(re.match(r"the run r4 is already running \(pid \d, since 20", text) for text in said[1:])
    with pytest.raises(StoreError, match="the run r4 is already writing to file:///r4"):
        runs.begin(row.model_copy(update={"run_id": "r5"}), Claim())
    assert runs.close("r4", RunStatus.CANCELLED, "closed by hand")
    runs.upsert_run(row)
    found = runs.get("r4")
    assert (found.status, found.termination_reason) == (RunStatus.CANCELLED, None)
    assert begin(9) == "begun"
    runs.begin(row, Claim(owner="a retry", retry=True))
    assert not runs.beat("r4", "pid 9")


def test_a_run_whose_process_was_killed_is_stale_and_can_begin_anew(runs: RunStore, embedded_dsn: str) -> None:
    code = """
import sys, time
from gca_core.runs import models, store
store.BEAT_SECONDS = 0.1
runs, claim = store.RunStore(sys.argv[1]), models.Claim(owner="me", stale_after_seconds=1)
row = models.RunRow(run_id="r6", question="q", results_uri="file:///r6", status="running")
runs.begin(row, claim)
with runs.alive("r6", "me"):
    print("begun", flush=True)
    time.sleep(60)
"""
    process = in_python(code, embedded_dsn)
    assert process.stdout.readline() == "begun\n"
    time.sleep(1.5)
    row = runs.get("r6")
    assert row.status is RunStatus.RUNNING
    process.kill()
    process.communicate()
    time.sleep(1.2)
    assert [found.status for found in runs.list_runs() if found.run_id == "r6"] == [RunStatus.STALE]
    runs.begin(row, Claim())
    with pytest.raises(KeyboardInterrupt), runs.alive("r6", Claim().owner):
        raise KeyboardInterrupt
    row = runs.get("r6")
    assert (row.status, row.termination_reason) == (RunStatus.CANCELLED, "interrupted")


@pytest.mark.parametrize("text", ["nul\0", "half \ud800"])
def test_text_that_postgresql_cannot_hold_is_refused_in_one_sentence(runs, atlas, take_in, tmp_path, text):
    make_cells().write_h5ad(tmp_path / "cells.h5ad")
    for action in (
        lambda: runs.upsert_run(RunRow(run_id="r7", question=text, results_uri="file:///r7")),
        lambda: runs.get(text),
        lambda: atlas.groups(dataset=text),
        lambda: take_in(ingest_config(tmp_path / "cells.h5ad", "nul\0")),
    ):
        with pytest.raises(DataValidationError, match="holds a NUL or half a character"):
            action()


def test_runs_are_listed_and_closed_by_the_command(runs: RunStore, gca_home: Path) -> None:
    def say(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, words, env={"GCA_HOME": str(gca_home)})
        return done.exit_code, done.output

    runs.begin(RunRow(run_id="r8", question="q", results_uri="file:///r8", status=RunStatus.RUNNING), Claim())
    assert re.search(r"running +- +r8 +file:///r8", say("list")[1])
    assert say("close", "r8") == (0, "closed: r8\n")
    assert say("close", "r8") == (0, "r8 has ended as cancelled\n")
    assert say("close", "nobody") == (2, "there is no run nobody\n")
    [row] = [row for row in json.loads(say("list", "--json")[1]) if row["run_id"] == "r8"]
    assert (row["status"], row["termination_reason"]) == ("cancelled", "closed by hand")


def test_the_record_store_shows_no_password(runs: RunStore, embedded_dsn: str) -> None:
    assert "password" not in repr(runs)


def test_a_notice_is_told_once_and_again_only_where_it_failed(runs: RunStore) -> None:
    def tell(fails: bool = False) -> bool:
        with runs.telling("told", "hash") as first:
            time.sleep(0.05)
            if fails:
                raise ConnectionError
            return first

    with pytest.raises(ConnectionError):
        tell(fails=True)
    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(lambda _: tell(), range(4))) == [False, False, False, True]


def test_a_phase_is_written_as_it_begins_and_not_after_the_end(runs: RunStore) -> None:
    row = RunRow(run_id="p1", question="q", results_uri="file:///p1", user_name="ann", dag_id="d", dag_run_id="r")
    runs.wait(row)
    runs.wait(row.model_copy(update={"user_name": "eve"}))
    assert runs.get("p1").status is RunStatus.PENDING
    # the tasks of the DAG run that the page started take the waiting record over
    runs.begin(RunRow(run_id="p1", question="q", results_uri="file:///p1", status=RunStatus.RUNNING), Claim())
    assert runs.enter("p1", RunPhase.INFERENCE, 2) and runs.enter("p1", RunPhase.INFERENCE, 2)
    runs.fault("p1", "the disk\0 is full")
    found = runs.get("p1")
    assert (found.status, found.phase, found.iteration) == (RunStatus.RUNNING, RunPhase.INFERENCE, 2)
    assert (found.user_name, found.dag_id, found.dag_run_id, found.error) == ("ann", "d", "r", "the disk  is full")
    assert runs.close("p1", RunStatus.FAILED, "failed: infer") and not runs.enter("p1", RunPhase.EVALUATION)
    assert runs.enter("p1", RunPhase.QUERY_ANALYSIS, anew=True) and runs.get("p1").error is None


def test_runs_are_found_by_user_status_text_and_dag_run(runs: RunStore) -> None:
    for number, (user, dag, status) in enumerate(
        [("ann", "d", "completed"), ("ann", "d", "failed"), ("ann", None, "completed"), ("bob", "d", "completed")]
    ):
        row = RunRow(run_id=f"f{number}", question=f"Question 5% {number}", results_uri="file:///f", status=status)
        runs.upsert_run(row.model_copy(update={"user_name": user, "dag_id": dag, "dag_run_id": f"run {number}"}))

    def found(**wanted: object) -> list[str]:
        rows = runs.list_runs(text="question 5%", **wanted)
        assert "limit" in wanted or "dag_run" in wanted or len(rows) == runs.count_runs(text="question 5%", **wanted)
        return [row.run_id for row in rows]

    assert found() == ["f3", "f2", "f1", "f0"] and found(limit=2, offset=1) == ["f2", "f1"]
    # a user of this machine is not the one of Airflow who has the same name
    assert found(user_name="ann") == ["f1", "f0"] and found(user_name="ann", status=RunStatus.FAILED) == ["f1"]
    assert found(dag_run=("d", "run 3")) == ["f3"] and found(status=RunStatus.STALE) == []


def test_old_runs_that_ended_are_purged(runs: RunStore, gca_home: Path, embedded_dsn: str) -> None:
    for name, status in (("old", "completed"), ("busy", "running"), ("new", "failed")):
        row = RunRow(run_id=name, question="secret?", results_uri="file:///o", status=status, user_name="ann")
        runs.upsert_run(row)
    with connect(embedded_dsn) as connection:
        connection.execute("update runs set updated_at = now() - interval '8 days' where run_id in ('old', 'busy')")
    done = CliRunner().invoke(app, ["purge", "--older-than", "7"], env={"GCA_HOME": str(gca_home)})
    assert done.output == "purged: 1 runs that ended 7 or more days ago\n"
    shown = [(row.question, row.user_name) for row in map(runs.get, ("old", "busy", "new"))]
    assert shown == [("(removed)", None), ("secret?", "ann"), ("secret?", "ann")]
    assert CliRunner().invoke(app, ["purge"], env={"GCA_HOME": str(gca_home)}).exit_code == 2
