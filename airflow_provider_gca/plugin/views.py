"""What the pages show of a run, in their words."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import jinja2

from gca_core.runs.models import RunPhase, RunStatus

if TYPE_CHECKING:
    from gca_core.haystack.models import GeneChange
    from gca_core.haystack.results.digest import Digest
    from gca_core.runs.models import RunRow, StoredIteration

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("airflow_provider_gca.plugin"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
STEPS = {
    RunPhase.QUERY_ANALYSIS: "Read the question",
    RunPhase.PROMPT_GENERATION: "Propose prompts",
    RunPhase.INFERENCE: "Predict",
    RunPhase.EVALUATION: "Evaluate",
    RunPhase.OUTPUT_GENERATION: "Write results",
}


FILES = {
    "h5ad": "Cells and tables (h5ad)",
    "html": "Report (HTML)",
    "markdown": "Report (Markdown)",
    "json": "Log (JSON)",
}


def fill(template: str, **values: Any) -> str:
    """A template of the pages with its values: every text is escaped, and a name that it lacks is an error."""
    return _TEMPLATES.get_template(template).render(**values)


class Step(NamedTuple):
    """A phase of a run: ``done``, ``now``, ``halted`` or ``next``."""

    words: str
    state: str


class Dot(NamedTuple):
    """A score in the picture: ``x`` from 0 to 1, and whether it is the best of its iteration."""

    x: float
    score: float
    best: bool
    words: str


class File(NamedTuple):
    """A result to download."""

    words: str
    href: str


class GeneBar(NamedTuple):
    """A gene with its change, and the change as a part of the largest."""

    gene: str
    change: float
    part: float


@dataclass(frozen=True)
class ResultView:
    """What a run came to, as its page shows it."""

    digest: Digest
    stopped: str
    up: list[GeneBar]
    down: list[GeneBar]
    files: list[File]
    report: str


@dataclass(frozen=True)
class RunView:
    """A run as its page shows it; iterations count from 1."""

    run_id: str
    question: str
    status: str
    over: bool
    user: str | None
    created_at: datetime | None
    doing: str
    iteration: int
    max_iterations: int
    best_score: float | None
    threshold: float | None
    n_candidates: int
    seconds: str
    tokens: int
    error: str
    steps: tuple[Step, ...]
    dots: tuple[Dot, ...]
    dag_href: str = ""

    @property
    def said(self) -> str:
        """For those who listen: what is new."""
        best = f", best score {self.best_score:.1f}" if self.best_score is not None else ""
        doing = f"{self.status}: {self.doing}" if self.doing else self.status
        return f"{doing}, iteration {self.iteration}{best}"

    @property
    def joined(self) -> list[tuple[Dot, Dot]]:
        """The best of each iteration with that of the next."""
        best = [dot for dot in self.dots if dot.best]
        return list(itertools.pairwise(best))

    @property
    def scores_said(self) -> str:
        """The picture in words."""
        return "; ".join(dot.words for dot in self.dots if dot.best)


def view_run(row: RunRow, iterations: Sequence[StoredIteration], dag_href: str = "") -> RunView:
    """A run with what is known of its iterations."""
    # unknown until the run has begun, where nobody asked for a number
    limit = int(row.config.get("max_iterations") or 0)
    over = row.status.is_over
    ended = stopped(row.termination_reason)
    at = 0 if row.iteration is None else row.iteration + 1
    return RunView(
        run_id=row.run_id,
        question=row.question,
        status=row.status.value,
        over=over,
        user=row.user_name,
        created_at=row.created_at,
        doing=ended if over else STEPS[row.phase].lower(),
        iteration=at if over else max(at, 1),
        max_iterations=limit,
        best_score=row.best_score,
        threshold=row.config.get("score_threshold"),
        n_candidates=sum(len(candidates_of(iteration)) for iteration in iterations),
        seconds=_time(row.cost.get("inference_seconds", 0)),
        tokens=int(row.cost.get("model_tokens", 0)),
        error=row.error or (row.termination_reason or "" if not ended else ""),
        steps=_steps(row.phase, row.status),
        dots=tuple(_dots(iterations, max(limit, len(iterations)))),
        dag_href=dag_href,
    )


def view_result(row: RunRow, place: str) -> ResultView | None:
    """What a run came to; None where it left nothing.

    Args:
        row: the run.
        place: address of its files, each by its kind.
    """
    if "json" not in row.outputs:
        return None
    from gca_core.haystack.results.digest import read_digest

    digest = read_digest(row.outputs["json"])
    files = [File(words, f"{place}/{kind}") for kind, words in FILES.items() if kind in row.outputs]
    report = f"{place}/html" if "html" in row.outputs else ""
    bars = (_bars(digest.top_up), _bars(digest.top_down))
    return ResultView(digest, stopped(digest.termination_reason), *bars, files, report)


def _bars(genes: Sequence[GeneChange]) -> list[GeneBar]:
    largest = max((abs(gene.change) for gene in genes), default=1.0)
    return [GeneBar(gene.gene, gene.change, abs(gene.change) / largest) for gene in genes]


def stopped(reason: str | None) -> str:
    """Why a run ended, in words; empty where it did not end by itself."""
    from gca_core.haystack.decide import STOPPED
    from gca_core.haystack.models import TerminationReason

    return STOPPED[TerminationReason(reason)] if reason in list(TerminationReason) else ""


def _steps(phase: RunPhase, status: RunStatus) -> tuple[Step, ...]:
    at = len(STEPS) if status is RunStatus.COMPLETED else list(STEPS).index(phase)
    here = "halted" if status.is_over else "now"
    states = ("done" if place < at else here if place == at else "next" for place in range(len(STEPS)))
    return tuple(map(Step, STEPS.values(), states))


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def candidates_of(iteration: StoredIteration) -> list[dict[str, Any]]:
    """The prompts of an iteration, as it was recorded."""
    return list(iteration.record.get("candidates") or ())


def _dots(iterations: Sequence[StoredIteration], limit: int) -> list[Dot]:
    found = []
    for iteration in iterations:
        candidates = candidates_of(iteration)
        best = iteration.record.get("best_candidate_id")
        for place, candidate in enumerate(candidates):
            score = candidate.get("score")
            if score is None:
                continue
            x = (iteration.iteration + (place + 0.5) / len(candidates) * 0.6 + 0.2) / limit
            what = f"{', '.join(candidate.get('perturbations', ()))} in {'; '.join(candidate.get('cell_types', ()))}"
            words = f"iteration {iteration.iteration + 1}: {score:.1f}, {what}"
            found.append(Dot(round(x, 4), score, candidate.get("candidate_id") == best, words))
    return found


class Field(NamedTuple):
    """An option of a question, named as the DAG and the API have it."""

    name: str
    words: str
    hint: str
    type: str = "number"
    bounds: Mapping[str, Any] = MappingProxyType({})


FIELDS = (
    Field("max_iterations", "Iterations", "At most; 5 if you leave it.", bounds={"min": 1, "max": 10}),
    Field(
        "score_threshold",
        "Score to reach",
        "Ends the run early; 7 if you leave it.",
        bounds={"min": 1, "max": 10, "step": "any"},
    ),
    Field("budget_seconds", "Budget", "Seconds of inference at most.", bounds={"min": 1, "step": "any"}),
    Field("seed", "Seed", "Of every random choice.", bounds={"min": 0}),
    Field(
        "gca_llm_conn_id", "Language model", "An Airflow connection: provider and model.", "text", {"maxlength": 200}
    ),
    Field("llm_model", "Its model", "Another one of that provider.", "text", {"maxlength": 200}),
    Field("notify", "Tell by e-mail", "How the run ended.", "email", {"maxlength": 200, "multiple": "multiple"}),
    Field("predict_anyway", "Predict what is measured too", "", "checkbox"),
    Field("feedback", "Ask me after each iteration", "Under Airflow's required actions.", "checkbox"),
)
