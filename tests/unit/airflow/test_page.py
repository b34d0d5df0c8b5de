"""What the pages say, without an Airflow: text stays text, and an empty state says what to do."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_gca.plugin.views import FIELDS, fill, view_run
from gca_core.runs.models import RunPhase, RunRow, RunStatus, StoredIteration

NOW = datetime(2026, 11, 29, tzinfo=UTC)
NASTY = '<img src=x onerror="alert(1)">\' & "quoted"'
SHARED = {"root": "/gca", "user": NASTY, "place": "ask"}
FACTS = {"dag_id": "gca_haystack_ask", "dag_found": True, "dag_paused": False, "may_start": True}
ASK = {
    "question": "", "facts": FACTS, "dag_href": "/dags/gca_haystack_ask", "ideas": [], "fields": FIELDS,
    "runs": [], "atlas": SimpleNamespace(n_groups=1, n_cells=1, n_perturbations=1, n_cell_types=1, n_datasets=1),
}  # fmt: skip
ATLAS = {**ASK, "asked": dict.fromkeys(("cell_type", "perturbation", "tissue", "dataset", "question"), NASTY),
         "known": {name: [NASTY] for name in ("cell_type", "perturbation", "tissue", "dataset")}, "earlier": "",
         "later": "", "proposal": NASTY, "found": SimpleNamespace(groups=[], n_groups=0, n_cells=0)}  # fmt: skip


def a_run(status: str = "running", phase: RunPhase = RunPhase.INFERENCE, **more: Any):
    candidates = [
        {"candidate_id": i, "score": 3.0 + i, "perturbations": [NASTY], "cell_types": ["B cell"]} for i in (0, 1)
    ]
    done = StoredIteration(
        run_id="r", iteration=0, score=4, updated_at=NOW, record={"best_candidate_id": 1, "candidates": candidates}
    )
    row = RunRow(
        run_id=NASTY, question=NASTY, results_uri="file:///x", status=RunStatus(status), phase=phase, created_at=NOW,
        config={"max_iterations": 3, "score_threshold": 7.0}, best_score=4.0, iteration=0, **more,
    )  # fmt: skip
    return view_run(row, [done])


@pytest.mark.parametrize(
    ("template", "values"),
    [
        ("index.html.j2", {**ASK, "question": NASTY, "ideas": [NASTY], "runs": [a_run()]}),
        ("runs.html.j2", {"runs": [a_run()], "asked": dict.fromkeys(("text", "status", "asked_by"), NASTY), "total": 1,
                          "statuses": ["failed"], "filtered": True, "sees_all": True, "earlier": "", "later": ""}),
        ("run.html.j2", {"run": a_run("failed", error=NASTY), "may_cancel": True, "result": None}),
        ("atlas.html.j2", ATLAS),
    ],
)  # fmt: skip
def test_text_of_people_and_data_stays_text(template: str, values: dict[str, Any]) -> None:
    html = fill(template, **SHARED, **values)
    assert "<img src=x" not in html
    assert "&lt;img src=x onerror=&#34;alert(1)&#34;&gt;&#39; &amp; &#34;quoted&#34;" in html
    # the policy lets no script and no style run that stands in the page
    assert "<style" not in html
    assert " style=" not in html
    assert html.count("<script") == html.count('<script src="/gca/static/') == 2


NONE = SimpleNamespace(n_groups=0)


@pytest.mark.parametrize(
    ("template", "values", "says"),
    [
        ("index.html.j2", {**ASK, "atlas": NONE}, "gca atlas ingest"),
        ("atlas.html.j2", {**ATLAS, "atlas": NONE}, "gca atlas ingest"),
        ("index.html.j2", {**ASK, "facts": FACTS | {"may_start": False}}, "right to trigger the DAG"),
        ("index.html.j2", {**ASK, "facts": FACTS | {"dag_found": False}}, "gca examples copy"),
        ("index.html.j2", {**ASK, "facts": FACTS | {"dag_paused": True}}, 'href="/dags/gca_haystack_ask"'),
        ("atlas.html.j2", ATLAS, "Show everything"),
        ("no_run.html.j2", {}, "Ask a question"),
        ("run.html.j2", {"run": a_run("cancelled"), "may_cancel": True, "result": None}, "Ask again"),
    ],
)
def test_an_empty_state_says_what_to_do(template: str, values: dict[str, Any], says: str) -> None:
    html = fill(template, **SHARED, **values)
    assert says in html
    assert 'class="sheet ask"' not in html


@pytest.mark.parametrize(
    ("status", "phase", "states"),
    [
        ("pending", RunPhase.QUERY_ANALYSIS, ["now", "next", "next", "next", "next"]),
        ("running", RunPhase.EVALUATION, ["done", "done", "done", "now", "next"]),
        ("failed", RunPhase.INFERENCE, ["done", "done", "halted", "next", "next"]),
        ("completed", RunPhase.OUTPUT_GENERATION, ["done"] * 5),
    ],
)
def test_a_run_shows_how_far_it_is(status: str, phase: RunPhase, states: list[str]) -> None:
    run = a_run(status, phase)
    assert [step.state for step in run.steps] == states
    assert (run.iteration, run.n_candidates, [dot.best for dot in run.dots]) == (1, 2, [False, True])
    assert run.said.startswith(status)
