"""The loop as a DAG: its figures, and what it does when something goes wrong on the way."""

import json
import re
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gca_core.cli.haystack.run import app
from gca_core.haystack import steps
from gca_core.haystack.models import HaystackRun
from gca_core.inference.models import InferenceJob
from gca_core.io import as_path, read_json
from gca_core.runs.state import StateRef, read_state
from tests.helpers.dag_runs import asset_events, output, states
from tests.helpers.mail_loopback import Mailbox, smtp_server

QUESTION = "How would CD14+ monocytes respond to interferon beta?"


def run_row(run: Any) -> Any:
    from airflow_provider_gca.hooks.atlas import AtlasHook

    (run_id,) = output(run, "haystack.start", "run_id")
    return AtlasHook().get_run_store().get(run_id)


def state_after(run: Any, iteration: int) -> HaystackRun:
    (state,) = output(run, f"haystack.iteration_{iteration}.record")
    return read_state(StateRef.model_validate(state), HaystackRun)


def iteration_states(run: Any, iteration: int) -> dict[str, list[str]]:
    prefix = f"haystack.iteration_{iteration}."
    return {name.removeprefix(prefix): value for name, value in states(run).items() if name.startswith(prefix)}


@pytest.fixture(scope="module")
def finished() -> dict[str, Any]:
    return {}


@pytest.fixture
def box(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mailbox]:
    """Where notices arrive; the first of them is refused."""
    with smtp_server() as found:
        monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", found.smtp)
        found.refuse = 1
        yield found


@pytest.fixture
def full_run(run_dag: Any, finished: dict[str, Any], box: Mailbox) -> Any:
    """One run of two iterations, shared by the tests of this file."""
    if "run" not in finished:
        finished["run"] = run_dag("gca_haystack", max_iterations=2, notify="lab@lab.example")
        finished["mails"] = box.mails
    return finished["run"]


@pytest.mark.slow
def test_predicts_what_was_put_aside_over_gated_iterations(full_run: Any, gca_home: Path) -> None:
    assert full_run.state == "success"
    assert output(full_run, "haystack.iteration_2.gate")[0]["reason"].startswith("max_iterations: 2 of 2")
    assert [iteration_states(full_run, index)["record"] for index in (0, 1)] == [["success"], ["success"]]
    summary = json.loads((gca_home / "results" / "gca_haystack" / "summary.json").read_text())
    figures = summary["metrics"]
    assert figures["Pearson of log fold change"] >= 0.85
    assert figures["overlap of the 50 largest changes"] >= 0.60
    assert figures["iterations"] == 2
    assert 1 <= figures["grounding score"] <= 10
    assert all(as_path(uri).exists() for uri in summary["files"].values())


@pytest.mark.slow
def test_the_asset_event_and_the_links_hold_the_figures_and_the_run(full_run: Any) -> None:
    (outputs,) = output(full_run, "haystack.finalize")
    events = {event.asset.uri: event.extra for event in asset_events(full_run)}
    assert set(events) == {outputs["h5ad_uri"], outputs["html_uri"]}
    assert all(extra["best_score"] == outputs["best_score"] for extra in events.values())
    (row_id,) = output(full_run, "haystack.start", "run_id")
    assert output(full_run, "haystack.iteration_0.infer", "gca_run_link")[0].endswith(f"/gca/runs/{row_id}")
    assert "/gca/atlas?dataset=" in output(full_run, "ingest", "gca_atlas_link")[0]


@pytest.mark.slow
def test_its_end_is_told_once_although_the_first_try_failed(full_run: Any, finished: dict[str, Any]) -> None:
    (notify,) = [found for found in full_run.get_task_instances() if found.task_id == "haystack.notify"]
    assert (notify.state, notify.try_number) == ("success", 2)
    (mail,) = finished["mails"]
    assert mail["subject"].endswith(QUESTION) and ", score " in mail["subject"]
    waited = parsedate_to_datetime(mail["date"]) - run_row(full_run).updated_at
    assert waited.total_seconds() < 60


@pytest.mark.slow
def test_the_cells_put_aside_are_not_in_the_atlas(full_run: Any) -> None:
    from airflow_provider_gca.hooks.atlas import AtlasHook

    (dataset,) = output(full_run, "prepare", "dataset")
    groups = AtlasHook().get_conn().groups(dataset=dataset, cell_type_ids=["CL:0002057"])
    assert groups
    assert all(group.is_control for group in groups)


@pytest.mark.slow
def test_the_run_row_and_the_chain_of_states_tell_the_same(full_run: Any) -> None:
    row = run_row(full_run)
    (outputs,) = output(full_run, "haystack.finalize")
    assert (row.status, row.phase, row.iteration) == ("completed", "output_generation", outputs["n_iterations"] - 1)
    assert (row.best_score, row.best_iteration) == (outputs["best_score"], outputs["best_iteration"])
    assert row.termination_reason == outputs["termination_reason"]
    assert row.state_uri == outputs["state_uri"]
    assert re.fullmatch(r"hay_\d{8}_[0-9a-z]{6}", row.run_id)
    assert (row.dag_id, row.dag_run_id) == (full_run.dag_id, full_run.run_id)
    assert row.outputs == {kind: outputs[f"{kind}_uri"] for kind in ("h5ad", "html", "markdown", "json")}
    assert row.cost["predictions"] == outputs["n_evaluations"] and row.cost["inference_seconds"] > 0
    assert row.seed == 0 and row.error is None


@pytest.mark.slow
def test_what_travels_between_tasks_is_small(full_run: Any) -> None:
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    with create_session() as session:
        values = session.scalars(XComModel.get_many(run_id=full_run.run_id, dag_ids="gca_haystack")).all()
        sizes = {f"{value.task_id}[{value.map_index}] {value.key}": len(str(value.value)) for value in values}
    assert sizes
    assert max(sizes.values()) < 16_000, sizes


@pytest.mark.slow
def test_mapped_tasks_carry_the_name_of_their_job_or_candidate(full_run: Any) -> None:
    names = {
        (instance.task_id.rpartition(".")[2], (instance.rendered_map_index or "")[:2])
        for instance in full_run.get_task_instances()
        if instance.map_index >= 0
    }
    assert names == {("infer", "j-"), ("evaluate", "c-")}


@pytest.mark.slow
def test_the_command_gives_the_same_log_to_the_byte_for_the_same_seed(full_run: Any, tmp_path: Path) -> None:
    (dataset,) = output(full_run, "prepare", "dataset")
    (outputs,) = output(full_run, "haystack.finalize")
    words = ["run", QUESTION, "--dataset", dataset, "--output", str(tmp_path), "--max-iterations", "2"]
    done = CliRunner().invoke(app, [*words, "--threshold", "9", "--ontology-distance", "4", "--seed", "0"])
    assert done.exit_code == 0, done.output
    (plain,) = tmp_path.glob("*_log.json")
    logs = [json.dumps(read_json(uri)["canonical"]) for uri in (plain, outputs["json_uri"])]
    assert logs[0] == logs[1] and str(tmp_path) not in logs[0]


@pytest.mark.slow
def test_a_gate_that_stops_says_why_and_the_rest_is_skipped(run_dag: Any) -> None:
    run = run_dag("gca_haystack", score_threshold=1)
    assert run.state == "success"
    for index in (1, 2):
        skipped = {name: ["skipped"] for name in ("propose", "infer", "collect", "evaluate", "record")}
        assert iteration_states(run, index) == {"gate": ["success"], **skipped}
    (decision,) = output(run, "haystack.iteration_1.gate")
    assert not decision["go"]
    assert decision["reason"].startswith("threshold: the score")
    assert run_row(run).termination_reason == "threshold"
    (outputs,) = output(run, "haystack.finalize")
    assert (outputs["n_iterations"], outputs["best_iteration"]) == (1, 0)


@pytest.mark.slow
def test_failures_of_single_candidates_leave_the_others(run_dag: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    propose, evaluate = steps.propose, steps.evaluate
    lost: dict[str, str] = {}

    several: list[int] = []

    def losing_a_prompt(state: StateRef, iteration: int, context: Any) -> list[InferenceJob]:
        jobs = propose(state, iteration, context)
        requests = [request for job in jobs for request in job.requests]
        if len(requests) > 1:
            several.append(iteration)
            if several == [iteration]:
                request = requests[0]
                lost["prompt"] = request.candidate_id
                as_path(request.prompt_uri).unlink()
        return jobs

    def losing_a_prediction(state: StateRef, iteration: int, result: Any, context: Any) -> Any:
        if iteration in several[1:] and result.prediction_uri and "prediction" not in lost:
            lost["prediction"] = result.candidate_id
            as_path(result.prediction_uri).unlink()
        return evaluate(state, iteration, result, context)

    monkeypatch.setattr(steps, "propose", losing_a_prompt)
    monkeypatch.setattr(steps, "evaluate", losing_a_prediction)
    run = run_dag("gca_haystack")
    assert run.state == "success"
    assert set(lost) == {"prompt", "prediction"}, "two iterations with several candidates are needed"
    assert set(iteration_states(run, several[0])["infer"]) == {"success"}
    assert sorted(set(iteration_states(run, several[1])["evaluate"])) == ["failed", "success"]

    evaluations = {e.candidate.candidate_id: e for e in state_after(run, 2).evaluations()}
    failed = {name: e.error or "" for name, e in evaluations.items() if e.status == "failed"}
    assert set(failed) == set(lost.values())
    assert "does not exist" in failed[lost["prompt"]]
    assert "evaluation failed" in failed[lost["prediction"]]
    assert output(run, "haystack.finalize")[0]["best_candidate_id"] not in failed


@pytest.mark.slow
def test_a_step_that_fails_ends_the_run_as_failed_and_tells_why(
    run_dag: Any, monkeypatch: pytest.MonkeyPatch, box: Mailbox
) -> None:
    from gca_core.errors import CellRetrievalError

    def failing(state: StateRef, iteration: int, context: Any) -> Any:
        raise CellRetrievalError("the atlas has lost its cells")

    monkeypatch.setattr(steps, "propose", failing)
    run = run_dag("gca_haystack", notify="lab@lab.example")
    assert run.state == "failed"
    assert states(run)["haystack.finalize"] == ["upstream_failed"]
    assert states(run)["haystack.cancel_leftovers"] == ["failed"]
    row = run_row(run)
    assert (row.status, row.termination_reason) == ("failed", "failed: haystack.iteration_0.propose")
    assert (row.phase, row.error) == ("prompt_generation", "the atlas has lost its cells")
    (mail,) = box.mails
    assert mail["subject"] == f"HAYSTACK, failed: {QUESTION}"
    assert "the atlas has lost its cells" in mail.get_body(["plain"]).get_content()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dag_id", "why"), [("gca_haystack_ask", "is not known"), ("gca_haystack", "task prepare failed")]
)
def test_a_question_that_nobody_understands_is_told_too(run_dag: Any, box: Mailbox, dag_id: str, why: str) -> None:
    run = run_dag(dag_id, question="What is the meaning of life?", notify="lab@lab.example")
    assert run.state == "failed"
    (mail,) = box.mails
    assert "What is the meaning of life?" in mail["subject"] and why in mail.get_body(["plain"]).get_content()
