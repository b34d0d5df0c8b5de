"""How a HAYSTACK run stands against a wanted score; shared by the sensor and its trigger."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from gca_core.runs.store import RunStore


class RunOutcome(BaseModel):
    """What the run records say at one moment.

    ``done`` means that waiting is over: the score is reached, the run has ended, or its process is dead (``stale``).
    """

    model_config = ConfigDict(frozen=True)

    run_id: str
    min_score: float
    status: str | None = None
    best_score: float | None = None
    best_iteration: int | None = None
    termination_reason: str | None = None
    reached: bool = False
    done: bool = False

    def describe(self) -> str:
        """A sentence about it, to follow the run's id."""
        if self.status is None:
            return "has no record yet"
        score = "no score" if self.best_score is None else f"a best score of {self.best_score:g}"
        if self.reached:
            return f"has {score}, at least the {self.min_score:g} waited for"
        if not self.done:
            return f"is {self.status} with {score}; waiting for {self.min_score:g}"
        reason = f" because of {self.termination_reason}" if self.termination_reason else ""
        return f"ended as {self.status}{reason} with {score}, below {self.min_score:g}"


def look_up(store: RunStore, run_id: str, min_score: float) -> RunOutcome:
    """Read the run's row and judge it. Blocks on the database.

    Raises:
        StoreError: the database can't be reached.
    """
    row = store.get(run_id)
    if row is None:
        return RunOutcome(run_id=run_id, min_score=min_score)
    reached = row.best_score is not None and row.best_score >= min_score
    return RunOutcome(
        run_id=run_id,
        min_score=min_score,
        status=row.status.value,
        best_score=row.best_score,
        best_iteration=row.best_iteration,
        termination_reason=row.termination_reason,
        reached=reached,
        done=reached or row.status.is_over,
    )
