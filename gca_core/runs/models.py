"""What is recorded about a run."""

import os
import socket
from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, Field


class RunStatus(StrEnum):
    """How a run stands."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    STALE = "stale"
    """said by readers of a run that is pending or running and whose process was silent for too long; never stored."""

    @property
    def is_final(self) -> bool:
        """Whether nothing more will happen."""
        return self in {RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.CANCELLED}

    @property
    def is_over(self) -> bool:
        """Whether there is nothing to wait for: it has ended, or its process is dead."""
        return self.is_final or self is RunStatus.STALE


class RunPhase(StrEnum):
    """What a run is doing."""

    UNDERSTAND = "understand"
    PROPOSE = "propose"
    INFER = "infer"
    EVALUATE = "evaluate"
    RECORD = "record"
    FINALIZE = "finalize"
    DONE = "done"


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


class RunRow(BaseModel, frozen=True):
    """One run; owner and times are the database's and are ignored when written."""

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
    owner: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    started_at: datetime | None = None
    heartbeat_at: datetime | None = None


class IterationRow(BaseModel, frozen=True):
    """One iteration of a run: its best score, the state it ended in, and whatever the caller records."""

    score: float | None = None
    state_uri: str | None = None
    state_sha256: str | None = None
    record: dict[str, Any] = Field(default_factory=dict)


class StoredIteration(IterationRow):
    """An iteration as it was read back."""

    run_id: str
    iteration: int
    updated_at: datetime
