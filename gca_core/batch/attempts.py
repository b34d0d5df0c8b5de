"""Which job comes next: pure decisions on what was found."""

from collections.abc import Sequence
from dataclasses import dataclass

from gca_core.batch.models import ENDING, Attempt, JobView, explain, failure_kind

# what another machine may mend
MOVES_ON = frozenset({"preempted", "no_capacity", "host"})
_ADVICE = {
    "exit_code": "",
    "timeout": "; it ran longer than max_run_duration_seconds",
    "cancelled": "; somebody cancelled it, another try of the task runs it again",
}


@dataclass(frozen=True)
class Reattach:
    """Wait for a job that is there.

    ``counts`` is false where it was already being cancelled when it was found: its end says nothing of this try.
    """

    view: JobView
    counts: bool = True


@dataclass(frozen=True)
class Take:
    """Use the results of a job that succeeded."""

    view: JobView


@dataclass(frozen=True)
class Submit:
    """Submit attempt ``number``, by ``plan[number % len(plan)]``."""

    number: int


@dataclass(frozen=True)
class GiveUp:
    """Fail with ``reason``."""

    view: JobView
    reason: str


Step = Reattach | Take | Submit | GiveUp


def next_step(
    found: Sequence[JobView], plan: Sequence[Attempt], tried_here: int = 0, *, queued_too_long: bool = False
) -> Step:
    """What to do about a job whose attempts are known.

    A further attempt follows only one that has ended. Within one try of a task the plan is gone through once, and only
    for what another machine may mend; a new try of the task makes one attempt more, whatever the last failed by.

    Args:
        found: the attempts that exist.
        plan: ways to get a machine.
        tried_here: attempts that this try of the task submitted or waited for.
        queued_too_long: the last attempt was cancelled by this try because it got no machine.
    """
    if not found:
        return Submit(0)
    attempts = sorted(found, key=lambda view: view.number)
    last = attempts[-1]
    for view in reversed(attempts):
        if view.state == "SUCCEEDED":
            return Take(view)
        if not view.over:
            return Reattach(view, counts=view.state not in ENDING)
    if tried_here == 0:
        return Submit(last.number + 1)
    kind = "no_capacity" if queued_too_long else failure_kind(last) or "exit_code"
    if kind in MOVES_ON and tried_here < len(plan):
        return Submit(last.number + 1)
    return GiveUp(
        last, f"{explain(last)}{_ADVICE.get(kind, f'; the plan of {len(plan)} is used up, add attempts to it')}"
    )
