"""Any ``gca`` command on a machine of Google Batch, waited for here."""

import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from gca_core.batch.attempts import GiveUp, Reattach, Submit, Take, next_step
from gca_core.batch.costs import check_budget
from gca_core.batch.ids import attempt_id, job_key, job_labels, run_label
from gca_core.batch.models import BatchConfig, JobView, Machine, explain
from gca_core.batch.poller import Poller, Verdict
from gca_core.batch.service import BatchService
from gca_core.batch.spec import build_job, fingerprint
from gca_core.errors import BatchError, GcaError

log = logging.getLogger(__name__)


def run_gca_on_batch(
    argv: Sequence[str],
    machine: Machine | None = None,
    *,
    config: BatchConfig,
    service: BatchService,
    run: str = "by-hand",
    timeout_seconds: float = 7200.0,
    poll_seconds: float = 10.0,
    on_view: Callable[[JobView], None] | None = None,
) -> JobView:
    """Run ``gca ARGV`` on a machine of Google Batch and wait for its end.

    The same command of the same run is the same job: one that runs is waited for, one that succeeded is not run again.
    What is interrupted here is cancelled there.

    Args:
        argv: the command's arguments; its files have to be in buckets.
        machine: instead of ``config.machine``.
        config: where and how.
        service: the jobs.
        run: names what belongs together; another name runs the command again.
        timeout_seconds: after which the job is cancelled and the call fails.
        poll_seconds: seconds between looks.
        on_view: called with each look.

    Raises:
        ConfigurationError: Batch refuses, or the budget is spent.
        BatchError: the job failed; says by what, with its last events and its log.
    """
    if machine is not None:
        config = BatchConfig.model_validate({**config.model_dump(), "machine": machine})
    key = job_key(run, "", list(argv), fingerprint(config, argv))
    labels = job_labels(run_label("gca", run), key)
    deadline = datetime.now(UTC) + timedelta(seconds=timeout_seconds)
    tried, queued = 0, False
    while True:
        found = service.find_attempts(config, key)
        step = next_step(found, config.plan, tried, queued_too_long=queued)
        match step:
            case Take(view):
                return view
            case GiveUp(view, reason):
                raise BatchError(reason)
            case Submit(number):
                attempt = config.plan[number % len(config.plan)]
                check_budget(config, found, attempt)
                body = build_job(config, argv, attempt, labels)
                view = service.submit(config, attempt, attempt_id(key, number), body)
                log.info("submitted %s", explain(view))
                tried += 1
            case Reattach(view, counts):
                log.info("found %s", explain(view))
                tried += counts
        more = tried < len(config.plan)
        verdict = _watch(service, view, Poller(deadline, queued_seconds=config.queued_seconds if more else None),
                         poll_seconds, on_view)  # fmt: skip
        queued = verdict.kind == "queued"
        if queued:
            log.warning("%s; the next attempt of the plan is made", verdict.message)
            service.cancel(view.name)
            _watch(service, view, Poller(deadline), poll_seconds, on_view)
        elif verdict.kind != "over":
            service.cancel(view.name)
            raise BatchError(f"{verdict.message}; the job was cancelled")


def _watch(
    service: BatchService, view: JobView, poller: Poller, poll_seconds: float, on_view: Callable[[JobView], None] | None
) -> Verdict:
    try:
        while True:
            try:
                view = service.get(view.name)
            except GcaError as error:
                verdict = poller.failed(error, datetime.now(UTC))
                log.warning("%s", verdict.message)
            else:
                verdict = poller.seen(view, datetime.now(UTC))
                if on_view is not None:
                    on_view(view)
            if verdict.kind != "wait":
                return verdict
            time.sleep(poll_seconds)
    except BaseException:
        service.cancel(view.name)
        raise
