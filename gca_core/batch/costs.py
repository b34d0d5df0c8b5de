"""What jobs cost, by the time they ran and prices that the user gives: estimates, never a bill."""

from collections.abc import Mapping, Sequence

from gca_core.batch.models import Attempt, BatchConfig, JobView, Provisioning
from gca_core.errors import ConfigurationError

Prices = Mapping[str, Mapping[Provisioning, float]]
# the shortest time that a machine is charged for
_LEAST_SECONDS = 60.0


def estimate_usd(view: JobView, prices: Prices) -> float | None:
    """The estimated cost of a job in USD, or None where no price is known.

    The time in RUNNING alone is counted, not the machine's start and end, its disk, or network.
    """
    return _usd(view.run_seconds, view.machine_type, view.provisioning, prices)


def check_budget(config: BatchConfig, views: Sequence[JobView], attempt: Attempt) -> float:
    """The most that jobs so far and one more may cost, in USD by the prices known.

    Jobs that still run, and the next, count as if they took all the time they may.

    Args:
        views: the jobs that share the budget: those of a run, or of one job.
        attempt: how the next would run.

    Raises:
        ConfigurationError: that is more than ``max_cost_usd``.
    """
    longest = float(config.max_run_duration_seconds)
    spent = sum(
        _usd(view.run_seconds if view.over else longest, view.machine_type, view.provisioning, config.prices) or 0.0
        for view in views
    )
    more = _usd(longest, config.machine.machine_type, attempt.provisioning, config.prices) or 0.0
    if config.max_cost_usd is not None and spent + more > config.max_cost_usd:
        dated = "" if config.prices_date is None else f", by the prices of {config.prices_date}"
        raise ConfigurationError(
            f"{len(views)} jobs are estimated at {spent:.2f} USD so far, and one more ({attempt.provisioning}) may "
            f"cost {more:.2f} USD{dated}, over max_cost_usd={config.max_cost_usd:g}; raise it, or lower "
            "max_run_duration_seconds"
        )
    return spent + more


def _usd(seconds: float, machine_type: str, provisioning: Provisioning, prices: Prices) -> float | None:
    per_hour = prices.get(machine_type, {}).get(provisioning)
    if per_hour is None:
        return None
    return max(seconds, _LEAST_SECONDS) / 3600 * per_hour if seconds else 0.0
