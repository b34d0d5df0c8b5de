"""How long the stages of a run took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from gca_core.progress import report_progress


class Stopwatch:
    """Wall time since it was made, and of each stage; a stage that comes again adds up."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._stages: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the block to a stage, and tell that it goes on."""
        report_progress(name)
        started = time.perf_counter()
        try:
            yield
        finally:
            self._stages[name] = self._stages.get(name, 0.0) + time.perf_counter() - started

    @property
    def seconds(self) -> float:
        """Since it was made, to the millisecond."""
        return round(time.perf_counter() - self._started, 3)

    @property
    def stages(self) -> dict[str, float]:
        """Seconds by stage, in the order they began first, to a tenth of a millisecond."""
        return {name: round(seconds, 4) for name, seconds in self._stages.items()}
