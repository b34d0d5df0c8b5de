"""What is recorded about a run."""

import hashlib
import json
import os
import socket
import string
from datetime import date, datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, Field

_DIGITS = string.digits + string.ascii_lowercase


class RunStatus(StrEnum):
    """How a run stands."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    STALE = "stale"
    """said by readers of a run that is pending or running and whose process was silent for too long; never stored."""

    @property
    def is_final(self) -> bool:
        """Whether nothing more will happen."""
        return self in {RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED}

    @property
    def is_over(self) -> bool:
        """Whether there is nothing to wait for: it has ended, or its process is dead."""
        return self.is_final or self is RunStatus.STALE


class RunPhase(StrEnum):
    """What a run is doing, or did last."""

    QUERY_ANALYSIS = "query_analysis"
    PROMPT_GENERATION = "prompt_generation"
    INFERENCE = "inference"
    EVALUATION = "evaluation"
    OUTPUT_GENERATION = "output_generation"


def make_run_id(day: date, *asked: object) -> str:
    """``hay_YYYYMMDD_xxxxxx``: the day, and a hash of what is asked, never chance."""
    number = int.from_bytes(hashlib.sha256(json.dumps(asked).encode()).digest()[:8])
    digits = ""
    for _ in range(6):
        number, rest = divmod(number, len(_DIGITS))
        digits += _DIGITS[rest]
    return f"hay_{day:%Y%m%d}_{digits}"


class Claim(BaseModel, frozen=True):
    """Who works on a run.

    Attributes:
        owner: for messages, and to tell whether another has taken the run over.
        stale_after_seconds: after that time without a sign of life the run counts as dead. A day by default: tasks of
            a workflow may wait that long for a machine.
        retry: the owner begins its own run anew.
    """

    owner: str = Field(default_factory=lambda: f"pid {os.getpid()} on {socket.gethostname()}")
    stale_after_seconds: int = Field(default=86_400, ge=1)
    retry: bool = False


class AskedBy(BaseModel, frozen=True):
    """Who asked for a run, and by which DAG run."""

    user_name: str | None = None
    dag_id: str | None = None
    dag_run_id: str | None = None


class RunRow(BaseModel, frozen=True):
    """One run; owner and times are the database's and are ignored when written.

    Attributes:
        user_name: who asked: of Airflow where ``dag_id`` is set, of this machine otherwise. Like the other ids it stays
            when a row without it is written.
        iteration: the one that runs or ran last, from 0.
        error: why it failed, in plain words.
        outputs: URIs of the results, by kind.
        cost: what it took so far: inference seconds, predictions, calls and tokens of a model.
        dag_id, dag_run_id: Airflow's.
    """

    run_id: str = Field(min_length=1)
    question: str
    results_uri: str
    status: RunStatus = RunStatus.PENDING
    phase: RunPhase = RunPhase.QUERY_ANALYSIS
    iteration: int | None = None
    user_name: str | None = None
    seed: int | None = None
    error: str | None = None
    outputs: dict[str, str] = Field(default_factory=dict)
    cost: dict[str, float] = Field(default_factory=dict)
    dag_id: str | None = None
    dag_run_id: str | None = None
    best_score: float | None = None
    best_iteration: int | None = None
    termination_reason: str | None = None
    state_uri: str | None = None
    config: dict[str, Any] = Field(default_factory=dict)
    owner: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    started_at: datetime | None = None
    heartbeat_at: datetime | None = None


class IterationRow(BaseModel, frozen=True):
    """One iteration of a run: its best score with the accuracy to expect, the state it ended in, and what is recorded
    of it beside these."""

    score: float | None = None
    expected: float | None = None
    state_uri: str | None = None
    state_sha256: str | None = None
    record: dict[str, Any] = Field(default_factory=dict)


class StoredIteration(IterationRow):
    """An iteration as it was read back."""

    run_id: str
    iteration: int
    updated_at: datetime
