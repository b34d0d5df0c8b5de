"""What to make of one look at a job: pure, shared by those who sleep and those who await."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from gca_core.batch.models import WAITING, JobView, explain

TOLERATED = 5


@dataclass(frozen=True)
class Verdict:
    """What to do now.

    ``wait``: look again later. ``over``: the job ended, well or not. ``timeout``: the deadline passed and the job goes
    on. ``queued``: it got no machine in time; cancel it, and make the next attempt. ``error``: it can't be watched.
    ``cancelled``: nobody wants it any more.
    """

    kind: Literal["wait", "over", "timeout", "queued", "error", "cancelled"]
    message: str = ""
    view: JobView | None = None


class Poller:
    """Watches one job.

    Args:
        deadline: a moment, not a duration, so that whoever takes over goes on with it.
        tolerated: failed looks in a row that are borne.
        queued_seconds: seconds after its creation in which a job has to get a machine; None waits until the deadline.
    """

    def __init__(self, deadline: datetime, tolerated: int = TOLERATED, queued_seconds: float | None = None) -> None:
        self.deadline = deadline
        self.tolerated = tolerated
        self.queued_seconds = queued_seconds
        self.view: JobView | None = None
        self._failures = 0

    def seen(self, view: JobView, now: datetime) -> Verdict:
        """A look that succeeded."""
        self._failures = 0
        self.view = view
        if view.over:
            return Verdict("over", explain(view), view)
        if now >= self.deadline:
            return self._late()
        if self.queued_seconds is not None and view.created is not None and view.state in WAITING:
            waited = (now - view.created).total_seconds()
            if waited > self.queued_seconds:
                return Verdict("queued", f"no machine after {waited:.0f} s: {explain(view)}", view)
        return Verdict("wait", view.state, view)

    def failed(self, error: Exception, now: datetime) -> Verdict:
        """A look that failed; a job that isn't there any more is an error at once."""
        self._failures += 1
        if 404 in (getattr(error, "code", None), getattr(error.__cause__, "code", None)):
            return Verdict("error", f"the job was deleted while it was watched: {error}", self.view)
        if self._failures > self.tolerated:
            return Verdict(
                "error", f"{self._failures} looks at the job failed in a row, the last by: {error}", self.view
            )
        if now >= self.deadline:
            return self._late()
        return Verdict("wait", f"a look failed ({self._failures} of {self.tolerated} borne): {error}", self.view)

    def _late(self) -> Verdict:
        about = "the job was never seen" if self.view is None else explain(self.view)
        return Verdict(
            "timeout", f"the deadline {self.deadline.isoformat(timespec='seconds')} passed: {about}", self.view
        )
