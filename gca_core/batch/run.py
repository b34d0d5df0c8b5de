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
from gca_core.batch.service import BatchService, job_name
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
    tried, queued, name = 0, False, ""
    try:
        while True:
            found = service.find_attempts(config, key)
            step = next_step(found, config.plan, tried, queued_too_long=queued)
            name = ""
            match step:
                case Take(view):
                    return view
                case GiveUp(view, reason):
                    raise BatchError(reason)
                case Submit(number):
                    attempt = config.plan[number % len(config.plan)]
                    check_budget(config, found, attempt)
                    job_id, body = attempt_id(key, number), build_job(config, argv, attempt, labels)
                    # known before it is there, so that what interrupts the request finds it
                    name = job_name(config.project_id, attempt.region, job_id)
                    log.info("submitting %s, %s in %s", job_id, attempt.provisioning, attempt.region)
                    service.submit(config, attempt, job_id, body)
                    tried += 1
                case Reattach(view, counts):
                    log.info("found %s", explain(view))
                    name = view.name
                    tried += counts
            seconds = config.queued_seconds if tried < len(config.plan) else None
            verdict = _watch(service, name, Poller(deadline, queued_seconds=seconds), poll_seconds, on_view)
            queued = verdict.kind == "queued"
            if queued:
                log.warning("%s; the next attempt of the plan is made", verdict.message)
                service.cancel(name)
                verdict = _watch(service, name, Poller(deadline), poll_seconds, on_view)
            if verdict.kind != "over":
                raise BatchError(f"{verdict.message}; the job was cancelled")
    except BaseException:
        if name:
            service.cancel(name)
        raise


def _watch(
    service: BatchService, name: str, poller: Poller, poll_seconds: float, on_view: Callable[[JobView], None] | None
) -> Verdict:
    while True:
        try:
            view = service.get(name)
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
