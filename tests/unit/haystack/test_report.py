"""Reports of runs that never were, and the pictures in them."""

from typing import Any

import numpy as np
import pytest

from gca_core.grounding.components import Link
from gca_core.haystack.decide import best_of, verdict
from gca_core.haystack.models import (
    AgentReport,
    Baseline,
    GeneChange,
    HaystackOutputs,
    HaystackRun,
    Measurement,
    ReferenceResponse,
    TerminationReason,
)
from gca_core.haystack.results.log import make_log
from gca_core.haystack.results.pictures import MAX_NODES, gene_rows, network_picture
from gca_core.haystack.results.report import Findings, render_report, render_report_markdown
from gca_core.haystack.results.words import fates
from tests.helpers.haystack_atlas import evaluation

HOSTILE = "<script>alert(1)</script> | `x` [a](http://b)\n# more"


def findings(run: HaystackRun, **changes: Any) -> Findings:
    best = best_of(run.evaluations())
    outputs = HaystackOutputs(
        run_id=run.run_id,
        h5ad_uri=None,
        html_uri="h",
        markdown_uri="m",
        json_uri="j",
        state_uri="s",
        best_score=best.score if best else None,
        best_iteration=0 if best else None,
        best_candidate_id=best.candidate.candidate_id if best else None,
        termination_reason=TerminationReason.PLATEAU,
        n_iterations=len(run.iterations),
        n_evaluations=len(run.evaluations()),
        status="completed",
        verdict=verdict(run)[0],
        verdict_detail=verdict(run)[1],
    )
    without = {"available": False, "description": "there is none"}
    parts = {"baseline": Baseline(**without), "reference": ReferenceResponse(**without), **changes}
    return Findings(run, best, outputs, "no gain", **parts)


@pytest.mark.parametrize(
    ("scores", "measured", "headline"),
    [
        ([8.0], None, "Grounded: the prediction shows what is known of interferon beta."),
        ([5.0, 6.0], None, "No grounded prediction."),
        ([None], None, "Ungroundable: too little is known of interferon beta"),
        ([[]], None, "No prediction was made."),
        ([], Measurement(n_groups=1, n_cells=9), "Measured: your atlas holds this response."),
    ],
)
def test_the_verdict_comes_first_in_words(run_with, scores, measured, headline) -> None:
    given = findings(run_with(*scores).model_copy(update={"measured": measured}))
    page, text = render_report(given), render_report_markdown(given)
    for report, heading in ((page, "<h2>"), (text, "\n## ")):
        assert 0 < report.index(headline) < report.index(heading)
        assert "further prompts brought nothing (no gain)" in report


def test_texts_from_data_stay_texts(run_with) -> None:
    run = run_with(8.0)
    hostile = run.query.model_copy(update={"question": HOSTILE, "perturbation": HOSTILE, "notes": (HOSTILE,)})
    said = AgentReport(agent="orchestrator", prompt_version="1-x", model="openai:m", failure=HOSTILE)
    record = run.iterations[0].model_copy(update={"agents": (said,), "notes": (f"note {HOSTILE}",)})
    given = findings(
        run.model_copy(update={"query": hostile, "iterations": (record,)}),
        reference=ReferenceResponse(
            available=True, description=HOSTILE, top_genes=(GeneChange(gene=HOSTILE, change=1.0),)
        ),
    )
    page, text = render_report(given), render_report_markdown(given)
    assert "<script>alert" not in page and "Iteration 0: note &lt;script&gt;alert(1)" in page
    assert r"iteration 0: note \<script\>" in text
    assert r"\<script\>alert(1)\</script\> \| \`x\` \[a\](http://b) # more" in text
    assert "<script" not in text.replace(r"\<", "") and "\n# more" not in text


def test_each_candidate_is_told_what_it_was_taken_or_left_for(run_with) -> None:
    run = run_with(8.0, 8.0, 6.0)
    near = evaluation("c-near", 8.0, relevance=0.9)
    away = evaluation("c-away", 9.0).model_copy(update={"agreement": 0.2})
    lost = evaluation("c-lost", None, failed=True)
    record = run.iterations[0].model_copy(update={"evaluations": (near, away, lost)})
    run = run.model_copy(update={"iterations": (record, *run.iterations[1:])})
    told = fates(run, best_of(run.evaluations()))
    assert told["c-away"] == "taken: highest agreement with the atlas's own estimate (0.20, next none)"
    assert told["c-near"] == "not taken: lower agreement with the atlas's own estimate (none against 0.20)"
    assert told["c-lost"] == "failed: broken"
    alone = run_with(8.0)
    assert fates(alone, best_of(alone.evaluations())) == {"c-0": "taken: the only prediction"}
    worse = run_with(8.0, 6.0)
    assert "less well grounded (6.0 against 8.0)" in fates(worse, best_of(worse.evaluations()))["c-1"]


def test_what_came_from_a_cache_is_said_and_is_no_part_of_the_canonical_log(run_with) -> None:
    run = run_with(8.0)
    (record,) = run.iterations
    kept = {"cached": True, "literature_answers": 9, "literature_cached": 4}
    again = record.model_copy(update={"evaluations": (record.evaluations[0].model_copy(update=kept),)})
    known = run.model_copy(update={"iterations": (again,)})
    for report in (render_report(findings(known)), render_report_markdown(findings(known))):
        assert "1 of 1 predictions were made before and come from the cache" in report
        assert "4 of 9 answers of PubMed come from the cache" in report
    assert "come from the cache" not in render_report(findings(run))
    assert make_log(run=run)["canonical"] == make_log(run=known)["canonical"]


def test_the_canonical_log_is_that_of_every_run_of_a_question(run_with) -> None:
    one = run_with(8.0)
    done = one.evaluations()[0].model_copy(update={"prediction_uri": "file:///elsewhere", "duration_seconds": 9.0})
    record = one.iterations[0].model_copy(update={"evaluations": (done,), "duration_seconds": 9.0})
    other = one.model_copy(update={"run_id": "other", "results_uri": "file:///other", "iterations": (record,)})
    first, second = (make_log(run=run, detail="x") for run in (one, other))
    assert first["canonical"] == second["canonical"] and first["canonical_sha256"] == second["canonical_sha256"]
    assert second["particular"]["/run/iterations/0/evaluations/0/prediction_uri"] == "file:///elsewhere"
    assert second["particular"]["/run/run_id"] == "other"


def test_the_network_is_small_the_same_each_time_and_within_its_picture() -> None:
    rng = np.random.default_rng(0)
    pairs = sorted({tuple(sorted(pair)) for pair in rng.integers(0, 90, (400, 2)).tolist() if pair[0] != pair[1]})
    links = [Link(f"G{i}", f"G{j}", 1 / (1 + i), "set") for i, j in pairs]
    links.sort(key=lambda link: -link.weight)
    nodes, edges = network_picture(links, {"G1": 1.0, "G2": -1.0}, ["G3"])
    assert (nodes, edges) == network_picture(links, {"G1": 1.0, "G2": -1.0}, ["G3"])
    assert 2 < len(nodes) <= MAX_NODES and len({(n.x, n.y) for n in nodes}) == len(nodes)
    assert all(0 <= value <= 1 for n in nodes for value in (n.x, n.y))
    assert {n.gene: n.kind for n in nodes if n.gene in {"G1", "G2", "G3"}} == {"G1": "up", "G2": "down", "G3": "target"}
    assert network_picture([], {}, ["G3"]) == ([], [])


def test_genes_stand_by_their_change_in_each_answer() -> None:
    rows, zero = gene_rows({"one": {"a": 1.0, "b": -3.0}, "two": {"a": 2.0, "z": 9.0}})
    assert [row.gene for row in rows] == ["b", "a"] and zero == pytest.approx(0.6)
    assert rows[1].values == {"one": (1.0, pytest.approx(0.8)), "two": (2.0, pytest.approx(1.0))}
    assert gene_rows({}) == ([], 0.0)
