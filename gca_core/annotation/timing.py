"""How long the stages of a run took."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from gca_core.annotation.models import ModelStats, RunStats
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

    def run_stats(self, request_id: str, models: ModelStats | None = None, overrides: int = 0) -> RunStats:
        """The statistics of a run up to now."""
        spent = None if models is None else models.usage
        return RunStats(
            request_id=request_id,
            seconds=self.seconds,
            stage_seconds=self.stages,
            cache_hits=0 if models is None else models.cache_hits,
            llm_batches=0 if models is None else models.llm_batches,
            overrides=overrides,
            cost=None if spent is None else spent.cost,
            currency=None if spent is None else spent.currency,
        )
