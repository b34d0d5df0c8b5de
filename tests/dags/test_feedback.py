"""A person answers in the middle of a loop, through what Airflow's form calls."""

from typing import Any

import pytest

from gca_core.haystack.feedback import GO_ON, STOP
from gca_core.haystack.models import HaystackRun
from gca_core.io import read_json, read_text
from gca_core.runs.state import StateRef, read_state
from tests.helpers.dag_runs import output, states


def words(exclude: str = "", prefer: str = "", note: str = "") -> dict[str, str]:
    return {"exclude": exclude, "prefer": prefer, "note": note}


@pytest.mark.slow
def test_what_a_person_says_changes_the_next_prompts_and_ends_the_loop(
    answering: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GCA_HAYSTACK_FEEDBACK_MINUTES", "5")
    run = answering(
        "gca_haystack",
        (GO_ON, words("B cell\nnatural killer cell", "interferon alpha response", "B cells are contaminated")),
        (STOP, words()),
        score_threshold=10,
    )
    assert run.state == "success", states(run)
    first, second = (
        read_state(StateRef.model_validate(output(run, f"haystack.iteration_{i}.answer")[0]), HaystackRun)
        for i in (0, 1)
    )
    barred = first.excluded()
    assert barred and first.feedback[0].by == "mary" and not first.feedback[0].notes
    assert first.preferred() == ("HALLMARK_INTERFERON_ALPHA_RESPONSE",)
    later = [e.candidate for e in second.iterations[1].evaluations]
    assert later and not any(set(c.cell_group_ids) & barred for c in later)
    assert output(run, "haystack.iteration_2.gate")[0]["reason"] == "feedback: stopped by mary after iteration 1"
    (outputs,) = output(run, "haystack.finalize")
    assert (outputs["termination_reason"], outputs["n_iterations"]) == ("feedback", 2)
    log = read_json(outputs["json_uri"])["canonical"]["run"]["feedback"]
    assert [said["note"] for said in log] == ["B cells are contaminated", ""]
    assert "B cells are contaminated" in read_text(outputs["html_uri"])
    assert "B cells are contaminated" in read_text(outputs["markdown_uri"])
