"""What is recorded about a run."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class RunStatus(StrEnum):
    """How a run stands."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether nothing more will happen."""
        return self in {RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.CANCELLED}


class RunPhase(StrEnum):
    """What a run is doing."""

    UNDERSTAND = "understand"
    PROPOSE = "propose"
    INFER = "infer"
    EVALUATE = "evaluate"
    RECORD = "record"
    FINALIZE = "finalize"
    DONE = "done"


class RunRow(BaseModel):
    """One run; the times are the database's and are ignored when written."""

    model_config = ConfigDict(frozen=True)

    run_id: str = Field(min_length=1)
    question: str
    results_uri: str
    status: RunStatus = RunStatus.PENDING
    phase: RunPhase = RunPhase.UNDERSTAND
    best_score: float | None = None
    best_iteration: int | None = None
    termination_reason: str | None = None
    state_uri: str | None = None
    config: dict[str, Any] = Field(default_factory=dict)
    created_at: datetime | None = None
    updated_at: datetime | None = None


class IterationRow(BaseModel):
    """One iteration of a run: its best score, the state it ended in, and whatever the caller records."""

    model_config = ConfigDict(frozen=True)

    score: float | None = None
    state_uri: str | None = None
    state_sha256: str | None = None
    record: dict[str, Any] = Field(default_factory=dict)


class StoredIteration(IterationRow):
    """An iteration as it was read back."""

    run_id: str
    iteration: int
    updated_at: datetime
