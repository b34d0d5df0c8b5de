"""What the API takes and gives."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, computed_field, model_validator

from gca_core.atlas.explore import Overview
from gca_core.haystack.results.digest import Digest
from gca_core.runs.models import RunPhase, RunStatus

MAX_QUESTION, MAX_NAME, MAX_ID = 2000, 200, 250
PAGE, MAX_PAGE = 20, 100
# PostgreSQL keeps no NUL
TEXT = r"^[^\x00]*$"


class Fault(BaseModel):
    """Every refusal and failure.

    Attributes:
        error: the status in words.
        error_type: which kind, for programs.
        message: what was found, what was expected, what to do.
        details: more of it; places and messages of fields that don't fit.
        run_id: the run that was asked for, where one was.
    """

    error: str
    error_type: str
    message: str
    details: Any = None
    run_id: str | None = None


class Health(BaseModel):
    """Whether the parts behind the API answer."""

    status: str
    database: str


class Limits(BaseModel):
    """Bounds of requests."""

    body_bytes: int
    requests_per_second: float
    burst: float
    runs_per_minute: float
    page: int
    question_characters: tuple[int, int]
    iterations: int


class Metadata(BaseModel):
    """What runs here, and what the caller may do."""

    version: str
    airflow_version: str
    dag_id: str
    dag_found: bool
    dag_paused: bool
    backends: list[str]
    user: str
    may_start: bool
    may_cancel: bool
    sees_all: bool
    atlas: Overview
    limits: Limits


def _whole(value: Any) -> Any:
    """In JSON 7.0 is an integer too."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]


def _asked(*given: str) -> dict[str, Any]:
    names = ("question", "cell_type", "perturbation")
    return {
        "required": list(given),
        "properties": {name: {"type": "string" if name in given else "null"} for name in names},
    }


class RunRequest(BaseModel):
    """A question, or a cell type and a perturbation; what is left out is as the DAG has it."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        json_schema_extra={"oneOf": [_asked("question"), _asked("cell_type", "perturbation")]},
    )

    question: str | None = Field(None, min_length=10, max_length=MAX_QUESTION, pattern=TEXT)
    cell_type: str | None = Field(None, min_length=1, max_length=MAX_NAME, pattern=TEXT)
    perturbation: str | None = Field(None, min_length=1, max_length=MAX_NAME, pattern=TEXT)
    kind: str | None = Field(None, min_length=1, max_length=100, pattern=TEXT)
    dataset: str | None = Field(None, min_length=1, max_length=MAX_NAME, pattern=TEXT)
    max_iterations: Whole | None = Field(None, ge=1, le=10)
    score_threshold: float | None = Field(None, ge=1, le=10)
    seed: Whole | None = Field(None, ge=0, lt=2**32)
    budget_seconds: float | None = Field(None, gt=0)
    predict_anyway: bool | None = None
    gca_llm_conn_id: str | None = Field(None, max_length=MAX_NAME, pattern=TEXT)
    llm_model: str | None = Field(None, max_length=MAX_NAME, pattern=TEXT)
    feedback: bool | None = None
    notify: str | None = Field(None, max_length=1000, pattern=TEXT)

    @model_validator(mode="after")
    def _asked_in_one_way(self) -> Self:
        named = {name for name in ("question", "cell_type", "perturbation") if getattr(self, name)}
        if named not in ({"question"}, {"cell_type", "perturbation"}):
            raise ValueError("give a question, or a cell_type and a perturbation, and not both")
        return self


class Score(BaseModel):
    """The best of an iteration: its grounding score, and the accuracy to expect."""

    iteration: int
    score: float | None
    expected: float | None
    n_candidates: int


class Run(BaseModel):
    """How a run stands; iterations count from 0."""

    run_id: str
    question: str
    user_name: str | None
    status: RunStatus
    phase: RunPhase
    iteration: int | None
    scores: list[Score] = []
    best_score: float | None
    best_iteration: int | None
    termination_reason: str | None
    error: str | None
    config: dict[str, Any]
    seed: int | None
    cost: dict[str, float]
    dag_id: str | None
    dag_run_id: str | None
    created_at: datetime | None
    started_at: datetime | None
    updated_at: datetime | None
    links: dict[str, str] = {}


class RunPage(BaseModel):
    """Some of the runs, newest first, and how many there are in all."""

    runs: list[Run]
    total: int
    limit: int
    offset: int


class Result(Digest):
    """What a run came to, and where its files are: addresses by kind."""

    run_id: str
    status: RunStatus
    downloads: dict[str, str]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def n_de_genes(self) -> int:
        """Differentially expressed genes of the prediction."""
        return self.n_de_up + self.n_de_down


class Prompt(BaseModel):
    """A prompt that a run would try first."""

    cell_types: tuple[str, ...]
    perturbations: tuple[str, ...]
    strategies: tuple[str, ...]
    n_cells: int
    rank_score: float
    rationale: str


class Prompts(BaseModel):
    """How a question is read, and the prompts that it would begin with."""

    question: str
    cell_type: str
    cell_type_id: str
    perturbation: str
    prompts: list[Prompt]
