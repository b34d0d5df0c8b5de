"""Google Batch through its own client, with what it refuses said in words."""

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast, get_args

from gca_core.batch.ids import RUN_LABEL, attempt_id, request_id
from gca_core.batch.models import ENDING, Attempt, BatchConfig, JobEvent, JobView, State
from gca_core.errors import BatchError, ConfigurationError

if TYPE_CHECKING:
    from google.api_core.retry import Retry
    from google.cloud.batch_v1 import BatchServiceClient, Job

CALL_SECONDS = 60.0
RETRY_SECONDS = 120.0
FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0
# whoever cancels is often being killed, and has half a minute at most
CANCEL_SECONDS = 20.0
# attempts in a row that aren't there before the search for more ends: somebody may have deleted one
_GAP = 2


def view_of(job: "Job") -> JobView:
    """What a job of the client's library says, also that of the asynchronous client."""
    instances = job.allocation_policy.instances
    policy = instances[0].policy if instances else None
    state = job.status.state.name
    return JobView(
        name=job.name,
        uid=job.uid,
        state=state if state in get_args(State) else "QUEUED",
        events=tuple(
            JobEvent(
                type=event.type_,
                description=event.description,
                time=event.event_time,
                exit_code=event.task_execution.exit_code if "task_execution" in event else None,
            )
            for event in job.status.status_events
        ),
        run_seconds=cast(timedelta, job.status.run_duration).total_seconds() if job.status.run_duration else 0.0,
        created=job.create_time,
        labels=dict(job.labels),
        region=job.name.split("/")[3],
        provisioning="SPOT" if policy is not None and policy.provisioning_model.name == "SPOT" else "STANDARD",
        machine_type=policy.machine_type if policy is not None else "",
    )


class BatchService:
    """Submits, finds and cancels jobs.

    What a service does not answer in time, or answers with 429, 500, 502, 503 or 504, is asked again after 1 to 30
    seconds, with the same ids, so that nothing is done twice.

    Args:
        client: Google's client, over REST or gRPC.
        retry_seconds: how long a request is asked again before it has failed.

    Raises:
        ConfigurationError: Batch refuses: rights, the API, or the job; says what to do.
        BatchError: Batch can't be reached or fails.
    """

    def __init__(self, client: "BatchServiceClient", *, retry_seconds: float = RETRY_SECONDS) -> None:
        self.client = client
        self.retry_seconds = retry_seconds

    def submit(self, config: BatchConfig, attempt: Attempt, job_id: str, body: dict[str, Any]) -> JobView:
        """Create a job, or return the one of this id that is there already."""
        from google.api_core.exceptions import Conflict, NotFound
        from google.cloud import batch_v1

        name = job_name(config.project_id, attempt.region, job_id)
        request = batch_v1.CreateJobRequest(
            parent=_parent(config.project_id, attempt.region),
            job_id=job_id,
            job=batch_v1.Job.from_json(json.dumps(body)),
            request_id=request_id(name),
        )
        with _in_words(f"create {name}"):
            try:
                return view_of(self.client.create_job(request, retry=self._retry(), timeout=CALL_SECONDS))
            except Conflict:
                # over gRPC its subclass AlreadyExists
                return self._look(name)
            except NotFound as error:
                raise ConfigurationError(
                    f"Google Batch knows no {request.parent}: {error.message}; check project_id and the plan's regions"
                ) from error

    def get(self, name: str) -> JobView:
        """One look at a job, not repeated: a :class:`Poller` counts those that fail."""
        with _in_words(f"look at {name}"):
            return view_of(self.client.get_job(name=name, retry=None, timeout=CALL_SECONDS))

    def find_attempts(self, config: BatchConfig, key: str) -> list[JobView]:
        """The attempts of a job that exist, in every region of the plan; asked one by one, since lists lag behind."""
        found: list[JobView] = []
        number = missing = 0
        while missing < _GAP:
            first = config.plan[number % len(config.plan)].region
            regions = dict.fromkeys((first, *(attempt.region for attempt in config.plan)))
            here = [view for region in regions if (view := self._find(config.project_id, region, key, number))]
            found += here
            missing = 0 if here else missing + 1
            number += 1
        return found

    def cancel(self, name: str) -> None:
        """Cancel a job; one that is over, being cancelled or gone is left alone."""
        from google.api_core.exceptions import BadRequest, Conflict, NotFound

        with _in_words(f"cancel {name}"):
            try:
                self.client.cancel_job(name=name, retry=self._retry(CANCEL_SECONDS), timeout=CANCEL_SECONDS)
            except NotFound:
                return
            except (BadRequest, Conflict):
                view = self._look(name, CANCEL_SECONDS)
                if not view.over and view.state not in ENDING:
                    raise

    def list_run(self, project: str, regions: Iterable[str], run: str) -> list[JobView]:
        """The jobs of a run, by its label."""
        from google.api_core.exceptions import BadRequest

        found = []
        for region in dict.fromkeys(regions):
            asked = {"parent": _parent(project, region), "filter": f'labels.{RUN_LABEL}="{run}"'}
            with _in_words(f"list the jobs of {region}"):
                try:
                    jobs = list(self.client.list_jobs(asked, retry=self._retry(), timeout=CALL_SECONDS))
                except BadRequest:
                    # a server that knows no such filter
                    del asked["filter"]
                    jobs = list(self.client.list_jobs(asked, retry=self._retry(), timeout=CALL_SECONDS))
            found += [view for job in jobs if (view := view_of(job)).labels.get(RUN_LABEL) == run]
        return found

    def cancel_run(
        self,
        project: str,
        regions: Iterable[str],
        run: str,
        *,
        labels: Mapping[str, str] | None = None,
        wait_seconds: float = 120.0,
        poll_seconds: float = 2.0,
    ) -> list[str]:
        """Cancel what still runs of a run, or of its jobs with these labels, wait until nothing does; return the names.

        Raises:
            BatchError: some still run after ``wait_seconds``.
        """
        deadline = time.monotonic() + wait_seconds
        regions = tuple(regions)
        cancelled: dict[str, None] = {}
        wanted = dict(labels or {}).items()
        while active := [
            view for view in self.list_run(project, regions, run) if not view.over and wanted <= view.labels.items()
        ]:
            for view in active:
                if view.state not in ENDING:
                    self.cancel(view.name)
                cancelled[view.name] = None
            if time.monotonic() > deadline:
                raise BatchError(
                    f"after {wait_seconds:.0f} s these jobs of the run {run} are still not cancelled: "
                    f"{', '.join(view.name for view in active)}; look at them in the console"
                )
            time.sleep(poll_seconds)
        return list(cancelled)

    def _find(self, project: str, region: str, key: str, number: int) -> JobView | None:
        from google.api_core.exceptions import NotFound

        name = job_name(project, region, attempt_id(key, number))
        with _in_words(f"look for {name}"):
            try:
                return self._look(name)
            except NotFound:
                return None

    def _look(self, name: str, seconds: float | None = None) -> JobView:
        return view_of(self.client.get_job(name=name, retry=self._retry(seconds), timeout=seconds or CALL_SECONDS))

    def _retry(self, seconds: float | None = None) -> "Retry":
        import requests
        from google.api_core import exceptions as api
        from google.api_core.retry import Retry, if_exception_type
        from google.auth.exceptions import TransportError

        may_pass = if_exception_type(
            api.TooManyRequests, api.InternalServerError, api.BadGateway, api.ServiceUnavailable, api.GatewayTimeout,
            requests.ConnectionError, requests.Timeout, TransportError,
        )  # fmt: skip
        bound = min(self.retry_seconds, seconds or self.retry_seconds)
        return Retry(may_pass, initial=FIRST_WAIT, maximum=LONGEST_WAIT, multiplier=2.0, timeout=bound)


def _parent(project: str, region: str) -> str:
    return f"projects/{project}/locations/{region}"


def job_name(project: str, region: str, job_id: str) -> str:
    """The full name of a job."""
    return f"{_parent(project, region)}/jobs/{job_id}"


@contextmanager
def _in_words(doing: str) -> Iterator[None]:
    """Make the client's errors ours."""
    import requests
    from google.api_core import exceptions as api
    from google.auth.exceptions import GoogleAuthError, TransportError

    try:
        yield
    except api.Forbidden as error:
        raise ConfigurationError(
            f"Google Batch refuses to {doing}: {error.message}; the account needs roles/batch.jobsEditor on the "
            "project and roles/iam.serviceAccountUser on the job's service account, and the API has to be on: "
            "gcloud services enable batch.googleapis.com"
        ) from error
    except (api.Unauthorized, GoogleAuthError) as error:
        if isinstance(error, TransportError):
            raise BatchError(f"could not {doing}: {error}") from error
        raise ConfigurationError(f"no valid credentials to {doing}: {error}; check the Google connection") from error
    except api.BadRequest as error:
        raise ConfigurationError(f"Google Batch can't {doing}: {error.message}") from error
    except (api.GoogleAPIError, requests.RequestException) as error:
        cause = getattr(error, "cause", None) or error
        raise BatchError(f"could not {doing}: {cause}") from cause
