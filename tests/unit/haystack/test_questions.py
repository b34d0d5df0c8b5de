"""Lists of questions, their shares of a budget, and their summary."""

import json
from pathlib import Path

import pytest

from gca_core.errors import DataValidationError
from gca_core.haystack.models import IterationConfig
from gca_core.haystack.questions import (
    Answered,
    Budget,
    Question,
    folder_of,
    read_questions,
    share_of,
    write_questions_summary,
)
from gca_core.io import read_text
from gca_core.runs.models import RunRow, RunStatus


@pytest.mark.parametrize(
    "text",
    [
        "question,dataset\nHow would B cells respond to IL-4?,d\n",
        "\ufeffid, question ,dataset\nq1,How would B cells respond to IL-4?,d\n",
        json.dumps([{"question": "How would B cells respond to IL-4?", "dataset": "d"}]),
    ],
)
def test_a_list_is_read_from_a_table_or_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "list").write_text(text)
    expected = Question(id="q1", question="How would B cells respond to IL-4?", dataset="d")
    assert read_questions(str(tmp_path / "list")) == [expected]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "columns none"),
        ("name,age\na,1\n", "columns name, age"),
        ("question\n", "holds 0 questions"),
        ("[1]", "something else"),
        ("[", "no JSON"),
        ('[{"question": "a", "price": 3}]', "question 1 of"),
        ("id,question\na,x\na,y\n", "have one id"),
        ("question\n\0\n", "binary"),
        ('["a"' + ', "a"' * 1000 + "]", "holds 1001"),
    ],
)
def test_what_is_no_list_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "list").write_text(text)
    with pytest.raises(DataValidationError, match=complaint):
        read_questions(str(tmp_path / "list"))


def row(status: RunStatus, predictions: int, allowed: int | None) -> RunRow:
    config = {} if allowed is None else {"max_evaluations": allowed}
    cost = {"predictions": predictions, "inference_seconds": 10.0 * predictions}
    return RunRow(run_id=f"r{predictions}", question="q", results_uri="u", status=status, config=config, cost=cost)


@pytest.mark.parametrize(
    ("others", "n", "share"),
    [
        ([], 4, 5),
        ([row(RunStatus.RUNNING, 1, 5)], 4, 5),
        ([row(RunStatus.COMPLETED, 2, 5)], 4, 6),
        ([row(RunStatus.FAILED, 0, 5)], 2, 20),
        ([], 30, 1),
    ],
)
def test_a_run_gets_its_part_of_what_the_others_leave(others: list[RunRow], n: int, share: int) -> None:
    found = share_of(Budget(predictions=20, inference_seconds=1000), IterationConfig(), others, n)
    assert found.max_evaluations == share
    assert found.budget_seconds is not None and found.budget_seconds <= 1000
    own = share_of(Budget(predictions=20), IterationConfig(max_evaluations=3), others, n)
    assert own.max_evaluations == min(3, share) and own.budget_seconds is None


def test_a_budget_is_never_passed_and_its_end_is_told() -> None:
    others: list[RunRow] = []
    for _ in range(7):
        config = share_of(Budget(predictions=7), IterationConfig(), others, 9)
        others.append(row(RunStatus.COMPLETED, config.max_evaluations or 0, config.max_evaluations))
    assert sum(r.cost["predictions"] for r in others) == 7
    with pytest.raises(DataValidationError, match="shared budget of 7 predictions is spent"):
        share_of(Budget(predictions=7), IterationConfig(), others, 9)


def test_the_summary_has_a_harmless_row_for_each_question(tmp_path: Path) -> None:
    rows = [
        Answered(id="a", question="=cmd|' /C calc'!A0", status="completed", verdict="grounded", score=7.25),
        Answered(id="b", question="<img src=x>", status="failed", error="the atlas <has> nothing"),
    ]
    uris = write_questions_summary(tmp_path.as_uri(), rows)
    table, page = read_text(uris["csv"]), read_text(uris["html"])
    assert "\na,'=cmd" in table and ",7.25," in table
    assert "<img" not in page and "&lt;has&gt;" in page and "1 without an answer" in page
    assert folder_of("file:///r", Question(id="../x", question="?")).startswith("file:///r/question-")
