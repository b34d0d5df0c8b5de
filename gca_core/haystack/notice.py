"""What people are told when a run has ended."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import BaseModel

from gca_core.errors import ConfigurationError, GcaError
from gca_core.haystack.decide import STOPPED
from gca_core.haystack.models import HaystackOutputs
from gca_core.haystack.results.files import result_uris
from gca_core.io import content_hash, read_json
from gca_core.pages import render_parts
from gca_core.runs.models import RunStatus

if TYPE_CHECKING:
    from gca_core.runs.models import RunRow

# two lines of a mail programme's list
SUBJECT_LENGTH = 150
TEMPLATES = {
    RunStatus.COMPLETED: "notice_completed.j2",
    RunStatus.FAILED: "notice_failed.j2",
    RunStatus.CANCELLED: "notice_cancelled.j2",
}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


class Notice(BaseModel, frozen=True):
    """A run that has ended, as it is told.

    Attributes:
        reason: why it ended, in words.
        outputs: its results, where there are any.
        error: what went wrong, in words.
        link: the run's page; None where nobody said where Airflow is.
    """

    run_id: str
    status: RunStatus
    question: str = ""
    score: float | None = None
    reason: str = ""
    outputs: HaystackOutputs | None = None
    error: str = ""
    link: str | None = None

    @property
    def digest(self) -> str:
        """A hash of the state that is told, whatever words tell it."""
        kept = {"run_id", "status", "score", "reason"}
        return content_hash(self.model_dump(mode="json", include=kept))


class Message(BaseModel, frozen=True):
    """A notice as it is sent."""

    subject: str
    text: str
    html: str


def make_notice(
    row: RunRow, *, outputs: HaystackOutputs | None = None, error: str = "", link: str | None = None
) -> Notice:
    """The notice of a run's record.

    Args:
        outputs: read from the run's log where they are not given and the run has succeeded.
    """
    if outputs is None and row.status is RunStatus.COMPLETED:
        outputs = _read_outputs(row)
    return Notice(
        run_id=row.run_id,
        status=row.status,
        question=row.question,
        score=row.best_score,
        reason=row.termination_reason or "",
        outputs=outputs,
        error=error,
        link=link,
    )


def render_notice(notice: Notice) -> Message:
    """Subject, text and page; every text from data is harmless in them.

    Raises:
        ConfigurationError: the run has not ended.
    """
    template = TEMPLATES.get(notice.status)
    if template is None:
        raise ConfigurationError(f"the run {notice.run_id} is {notice.status}; only its end is told")
    texts = render_parts("gca_core.haystack", template, n=notice, facts=list(_facts(notice)))
    return Message(subject=one_line(texts["subject"]), text=texts["text"].strip(), html=texts["html"].strip())


def one_line(text: str, length: int = SUBJECT_LENGTH) -> str:
    """A text as a header may hold it: without control characters, and cut to a length."""
    plain = " ".join(_CONTROL.sub(" ", text).split())
    return plain if len(plain) <= length else f"{plain[: length - 3].rstrip()}..."


def _facts(notice: Notice) -> Iterator[tuple[str, str]]:
    """What is known of a run, by name."""
    outputs = notice.outputs
    if notice.error:
        yield "What went wrong", notice.error
    if outputs:
        yield "Verdict", f"{outputs.verdict}: {outputs.verdict_detail}"
    if notice.score is not None:
        yield "Grounding score", f"{notice.score:.1f} of 10"
    if outputs and outputs.expected:
        yield "Pearson to expect", str(outputs.expected)
    if outputs:
        yield "Iterations", f"{outputs.n_iterations}, with {outputs.n_evaluations} predictions"
    if notice.reason:
        yield "Why it ended", STOPPED.get(notice.reason, notice.reason)  # type: ignore[call-overload]
    if outputs:
        yield "Report", outputs.html_uri


def _read_outputs(row: RunRow) -> HaystackOutputs | None:
    """The results that the run's log names; None where it can't be read."""
    try:
        log = read_json(result_uris(row.results_uri, row.run_id)["json"], what="log of a run")
        own = {path.rpartition("/")[2]: value for path, value in log["particular"].items() if "/outputs/" in path}
        return HaystackOutputs.model_validate(log["canonical"]["outputs"] | own)
    except (GcaError, KeyError, TypeError, ValueError):
        return None
