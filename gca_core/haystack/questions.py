"""Many questions at once: a list of them, their shares of one budget, and one summary."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from io import StringIO
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field, ValidationError

from gca_core.errors import DataValidationError, complaints
from gca_core.haystack.models import IterationConfig
from gca_core.io import content_hash, join_uri, parse_json, read_text, write_text
from gca_core.pages import render_page

if TYPE_CHECKING:
    from gca_core.haystack.models import HaystackOutputs
    from gca_core.runs.models import RunRow

MOST_QUESTIONS = 1000
COLUMNS = (
    "id", "question", "status", "verdict", "score", "expected", "iterations", "predictions", "inference_seconds",
    "run_id", "report", "error",
)  # fmt: skip


class Question(BaseModel, frozen=True, extra="forbid"):
    """A line of the list: a question in words, or a cell type and a perturbation.

    Attributes:
        id: names it in the summary; made from the rest where it is empty.
        dataset: of the atlas, to draw from; all where None.
    """

    id: str = ""
    question: str | None = None
    cell_type: str | None = None
    perturbation: str | None = None
    kind: str | None = None
    dataset: str | None = None

    @property
    def words(self) -> str:
        """What is asked, to be shown."""
        return self.question or f"{self.cell_type or '?'}, {self.perturbation or '?'}"


class Budget(BaseModel, frozen=True):
    """What all questions together may take; None means no bound.

    Attributes:
        predictions: of all runs.
        inference_seconds: of all runs.
    """

    predictions: int | None = Field(default=None, ge=1)
    inference_seconds: float | None = Field(default=None, gt=0)


class Answered(BaseModel, frozen=True):
    """A row of the summary."""

    id: str
    question: str
    status: str
    verdict: str | None = None
    score: float | None = None
    expected: float | None = None
    iterations: int | None = None
    predictions: int | None = None
    inference_seconds: float | None = None
    run_id: str | None = None
    report: str | None = None
    error: str | None = None


def read_questions(uri: str) -> list[Question]:
    """The questions of a CSV table with a header, or of a JSON list of texts or objects, in order.

    Raises:
        DataValidationError: the file can't be read, is none of both, has unknown columns, or two lines have one id.
    """
    text = read_text(uri, what="list of questions").removeprefix("\ufeff")
    rows = _json(text) if text.lstrip().startswith("[") else _csv(text)
    if not 1 <= len(rows) <= MOST_QUESTIONS:
        raise DataValidationError(f"the list {uri} holds {len(rows)} questions; expected 1 to {MOST_QUESTIONS}")
    found: list[Question] = []
    for line, row in enumerate(rows, start=1):
        try:
            question = Question.model_validate({name: value for name, value in row.items() if value not in (None, "")})
        except ValidationError as error:
            raise DataValidationError(f"question {line} of {uri}: {complaints(error, at_most=3)}") from None
        found.append(question if question.id else question.model_copy(update={"id": f"q{line}"}))
    if len({question.id for question in found}) < len(found):
        raise DataValidationError(f"two questions of {uri} have one id; leave the column out, or give each its own")
    return found


def share_of(budget: Budget, config: IterationConfig, others: Sequence[RunRow], n_questions: int) -> IterationConfig:
    """A run's own bounds: an equal share of what the other runs leave, among those that have not begun.

    A run that goes on counts with all that it may take, one that has ended with what it took: so what one leaves
    goes to those after it, and together they stay within the budget.

    Raises:
        DataValidationError: nothing is left.
    """
    waiting = max(1, n_questions - len(others))
    changes: dict[str, Any] = {}
    for field, name, total in (
        ("max_evaluations", "predictions", budget.predictions),
        ("budget_seconds", "inference_seconds", budget.inference_seconds),
    ):
        if total is None:
            continue
        taken = sum(_taken(row, field, name) for row in others)
        share = (total - taken) / waiting
        share = int(share) if field == "max_evaluations" else share
        if share <= 0 and total - taken >= 1:
            # less than one for each: the first ones get it
            share = 1
        if share <= 0:
            raise DataValidationError(f"the shared budget of {total:g} {name.replace('_', ' ')} is spent")
        own = getattr(config, field)
        changes[field] = share if own is None else min(own, share)
    return config.model_copy(update=changes)


def answered(question: Question, outputs: HaystackOutputs, row: RunRow | None) -> Answered:
    """The row of a question that has an answer."""
    cost = row.cost if row else {}
    return Answered(
        id=question.id,
        question=question.words,
        status=outputs.status,
        verdict=outputs.verdict.value,
        score=outputs.best_score,
        expected=outputs.expected.value if outputs.expected else None,
        iterations=outputs.n_iterations,
        predictions=outputs.n_evaluations,
        inference_seconds=cost.get("inference_seconds"),
        run_id=outputs.run_id,
        report=outputs.html_uri,
    )


def write_questions_summary(folder: str, rows: Sequence[Answered]) -> dict[str, str]:
    """Write ``questions.csv`` and ``questions.html``, a row for each question; returns their URIs."""
    buffer = StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([_cell(getattr(row, name)) for name in COLUMNS])
    page = render_page("gca_core.haystack", "questions.html.j2", title="Questions and answers", rows=rows)
    return {
        "csv": write_text(join_uri(folder, "questions.csv"), buffer.getvalue()),
        "html": write_text(join_uri(folder, "questions.html"), page),
    }


def folder_of(root: str, question: Question) -> str:
    """The folder for a question's results."""
    return join_uri(root, f"question-{content_hash(question)[:12]}")


def _taken(row: RunRow, field: str, name: str) -> float:
    spent = row.cost.get(name, 0.0)
    allowed = row.config.get(field)
    return spent if row.status.is_over or allowed is None else max(spent, float(allowed))


def _json(text: str) -> list[dict[str, Any]]:
    try:
        rows = parse_json(text)
    except ValueError as error:
        raise DataValidationError(f"the list of questions is no JSON: {error}") from None
    found = [{"question": row} if isinstance(row, str) else row for row in rows]
    if not all(isinstance(row, dict) for row in found):
        raise DataValidationError("the list of questions holds something else than texts and objects")
    return found


def _csv(text: str) -> list[dict[str, Any]]:
    if "\0" in text:
        raise DataValidationError("the list of questions holds binary data; save it as CSV in UTF-8, or as JSON")
    reader = csv.DictReader(StringIO(text, newline=""), strict=True)
    try:
        names = [name.strip() for name in reader.fieldnames or ()]
        rows = [{name.strip(): (value or "").strip() for name, value in row.items() if name} for row in reader]
    except csv.Error as error:
        raise DataValidationError(f"the list of questions is no table: {error}") from None
    unknown = sorted(set(names) - set(Question.model_fields))
    if unknown or not set(names) & {"question", "cell_type"}:
        raise DataValidationError(
            f"the list of questions has the columns {', '.join(names) or 'none'}; expected question, or cell_type and "
            "perturbation, and where wanted id, kind and dataset"
        )
    return rows


def _cell(value: Any) -> str:
    """A cell of a table; a text from data starts no formula."""
    text = "" if value is None else str(value)
    return f"'{text}" if isinstance(value, str) and text[:1] in "=+-@\t\r" else text
