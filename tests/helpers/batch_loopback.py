"""A server on this machine that speaks Google Batch's protocol, over REST and gRPC, and runs the jobs' commands.

One store stands behind both. A job's command runs as a local process with a bare environment; what happens to jobs on
the real service, from preemption to lost answers, happens on demand. ``python -m tests.helpers.batch_loopback
--port-file FILE`` serves on its own; :class:`Remote` then gives the same orders from another process.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import grpc
import pytest
from google.cloud import batch_v1
from google.longrunning import operations_pb2
from google.protobuf import json_format

State = batch_v1.JobStatus.State
OVER = {State.SUCCEEDED, State.FAILED, State.CANCELLED}
ENDING = {State.CANCELLATION_IN_PROGRESS, State.DELETION_IN_PROGRESS}
CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT, 403: grpc.StatusCode.PERMISSION_DENIED, 404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.ALREADY_EXISTS, 429: grpc.StatusCode.RESOURCE_EXHAUSTED, 500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE, 504: grpc.StatusCode.DEADLINE_EXCEEDED,
}  # fmt: skip
LOST = 0
GCA = (sys.executable, "-m", "gca_core.cli.main")
QUOTA = (
    "VM in Managed Instance Group meets error: Batch Error: code - CODE_GCE_QUOTA_EXCEEDED, description - error count "
    "is 1, latest message example: Quota 'NVIDIA_A100_GPUS' exceeded. Limit: 0.0"
)


class RefusalError(Exception):
    """An answer with an error code; ``LOST`` hangs up without one."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class Record:
    """A job that was ever created: how it stands, what it ran and what that left."""

    job: batch_v1.Job
    history: list[str] = field(default_factory=list)
    argv: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    output: str = ""
    process: subprocess.Popen[str] | None = None
    # by whoever cancels or deletes it
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def id(self) -> str:
        return self.job.name.rpartition("/")[2]

    @property
    def state(self) -> str:
        return self.history[-1]

    def to_json(self) -> dict[str, Any]:
        told = {"id": self.id, "name": self.job.name, "state": self.state, "history": self.history, "argv": self.argv}
        return {**told, "labels": dict(self.job.labels), "environment": self.environment, "output": self.output}


class BatchServer:
    """The store, its faults, and what the tests ask of it.

    Args:
        command: what stands before a job's arguments; the ``gca`` command by default.
        environment: variables that the jobs get beside their own, such as where the storage is.
    """

    def __init__(self, command: Sequence[str] = GCA, environment: Mapping[str, str] | None = None) -> None:
        self.command = list(command)
        self.environment = dict(environment or {})
        self.url = self.grpc = ""
        self.jobs: list[Record] = []
        self.start_delay = 0.02
        self.cancel_delay = 0.05
        # seconds that a job runs before it is preempted
        self.preempt_after = 0.2
        # whether a request that is sent again is recognised by its id
        self.deduplicates = True
        self._stored: dict[str, Record] = {}
        self._requests: dict[str, str] = {}
        self._faults: list[tuple[str, int, bool]] = []
        self._to_preempt = 0
        self._without_quota: dict[str, bool] = {}
        self._go = threading.Event()
        self._go.set()
        self._lock = threading.RLock()
        self._home = tempfile.TemporaryDirectory(prefix="gca-batch-", ignore_cleanup_errors=True)

    # what tests ask

    @property
    def n_created(self) -> int:
        return len(self.jobs)

    def running(self) -> list[str]:
        """Ids of jobs that are not over, and of those whose process still lives."""
        return [
            record.id
            for record in self.jobs
            if record.job.status.state not in OVER | {State.DELETION_IN_PROGRESS}
            or (record.process is not None and record.process.poll() is None)
        ]

    def described(self) -> list[dict[str, Any]]:
        return [record.to_json() for record in self.jobs]

    @property
    def connection(self) -> str:
        """An Airflow connection that leads here, for ``AIRFLOW_CONN_*``."""
        extra = {"project": "lab", "is_anonymous": True, "api_endpoint": self.url, "api_endpoint_grpc": self.grpc}
        return json.dumps({"conn_type": "google_cloud_platform", "extra": extra})

    def fail_next(self, method: str, code: int, times: int = 1, after: bool = False) -> None:
        """Answer the next calls of ``CreateJob``, ``GetJob``, ... by an error; with ``after`` only once it is done."""
        self._faults += [(method, code, after)] * times

    def preempt_next(self, n: int) -> None:
        """End the next jobs that start as if their Spot machine had been taken away."""
        self._to_preempt += n

    def refuse_quota(self, region: str, fails: bool = False) -> None:
        """Give no machine in a region: jobs stay SCHEDULED, as they do on the service, or fail at once."""
        self._without_quota[region] = fails

    def hold(self) -> None:
        """Keep jobs RUNNING, without starting their command, until :meth:`release`."""
        self._go.clear()

    def release(self) -> None:
        self._go.set()

    def cancel_from_outside(self, job: str) -> None:
        """Cancel a job by its id or name, as somebody at the console would."""
        name = next(name for name in self._stored if name.endswith(job))
        self.cancel_job({"name": name})

    def set(self, name: str, value: Any) -> None:
        setattr(self, name, value)

    # the methods of the service, with the fields of their requests

    def create_job(self, asked: Mapping[str, Any]) -> batch_v1.Job:
        parent, job_id, job = asked["parent"], asked["job_id"], asked["job"]
        region = parent.split("/")[3]
        name = f"{parent}/jobs/{job_id}"
        with self._lock:
            if self.deduplicates and asked.get("request_id") in self._requests:
                return batch_v1.Job(self._stored[self._requests[asked["request_id"]]].job)
            if name in self._stored:
                raise RefusalError(409, f"Resource '{name}' already exists")
            if not re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", job_id):
                raise RefusalError(400, f"{job_id!r} is no job id")
            if not all(f"regions/{region}" == place for place in job.allocation_policy.location.allowed_locations):
                raise RefusalError(400, "allowed_locations must be in the job's region")
            container = job.task_groups[0].task_spec.runnables[0].container if job.task_groups else None
            if container is None or not container.image_uri:
                raise RefusalError(400, "a runnable with an image is required")
            stored = batch_v1.Job(job, name=name, uid=f"u{uuid.uuid4().hex[:12]}", create_time=datetime.now(UTC))
            record = Record(stored, argv=list(container.commands))
            self._set(record, State.QUEUED)
            self._stored[name] = record
            self.jobs.append(record)
            if asked.get("request_id"):
                self._requests[asked["request_id"]] = name
            answer = batch_v1.Job(stored)
        threading.Thread(target=self._run, args=(record, region), daemon=True).start()
        return answer

    def get_job(self, asked: Mapping[str, Any]) -> batch_v1.Job:
        with self._lock:
            return batch_v1.Job(self._named(asked["name"]).job)

    def list_jobs(self, asked: Mapping[str, Any]) -> batch_v1.ListJobsResponse:
        wanted = re.findall(r'labels\.(\w+)\s*=\s*"([^"]*)"', asked.get("filter") or "")
        if asked.get("filter") and not wanted:
            raise RefusalError(400, "invalid list filter")
        with self._lock:
            found = [
                batch_v1.Job(record.job)
                for name, record in self._stored.items()
                if name.startswith(f"{asked['parent']}/") and all(record.job.labels.get(k) == v for k, v in wanted)
            ]
        return batch_v1.ListJobsResponse(jobs=found)

    def cancel_job(self, asked: Mapping[str, Any]) -> operations_pb2.Operation:
        record = self._named(asked["name"])
        with self._lock:
            if record.job.status.state in OVER:
                raise RefusalError(400, f"job is already in terminal state {record.state}")
            if record.job.status.state not in ENDING:
                self._set(record, State.CANCELLATION_IN_PROGRESS)
                threading.Thread(target=self._end, args=(record, State.CANCELLED), daemon=True).start()
        return operations_pb2.Operation(name=f"{record.job.name.rpartition('/jobs/')[0]}/operations/{uuid.uuid4()}")

    def delete_job(self, asked: Mapping[str, Any]) -> operations_pb2.Operation:
        record = self._named(asked["name"])
        with self._lock:
            self._set(record, State.DELETION_IN_PROGRESS)
            threading.Thread(target=self._end, args=(record, None), daemon=True).start()
        return operations_pb2.Operation(name=f"{record.job.name.rpartition('/jobs/')[0]}/operations/{uuid.uuid4()}")

    def call(self, method: str, asked: Mapping[str, Any]) -> Any:
        """A call from outside, with the faults that were ordered."""
        do: Callable[[Mapping[str, Any]], Any] = getattr(self, re.sub(r"(?<!^)(?=[A-Z])", "_", method).lower())
        with self._lock:
            fault = next((fault for fault in self._faults if fault[0] == method), None)
            if fault is not None:
                self._faults.remove(fault)
        if fault is None:
            return do(asked)
        if fault[2]:
            do(asked)
        raise RefusalError(fault[1], "as ordered")

    # the life of a job

    def _named(self, name: str) -> Record:
        if name not in self._stored:
            raise RefusalError(404, f"Resource '{name}' was not found")
        return self._stored[name]

    def _set(self, record: Record, state: State, words: str = "", exit_code: int | None = None) -> None:
        with self._lock:
            status = record.job.status
            before = status.state.name
            told = words
            if exit_code is not None:
                told = (
                    "Job failed due to task failures. For example, task with index 0 failed, failed task event "
                    "description is Task state is updated from RUNNING to FAILED on "
                    f"zones/{words} with exit code {exit_code}."
                )
            if record.history:
                told = f"Job state is set from {before} to {state.name} for job {record.job.name}. {told}".rstrip()
                self._tell(record, "STATUS_CHANGED", told, exit_code)
            record.job.status.state = state
            record.history.append(state.name)

    def _tell(self, record: Record, kind: str, words: str, exit_code: int | None = None) -> None:
        event = batch_v1.StatusEvent(type_=kind, description=words, event_time=datetime.now(UTC))
        if exit_code is not None:
            event.task_execution = batch_v1.TaskExecution(exit_code=exit_code)
        record.job.status.status_events.append(event)

    def _go_on(self, record: Record, state: State, *words: Any) -> bool:
        """Enter a state, unless the job is being ended from outside."""
        with self._lock:
            if record.job.status.state in OVER | ENDING:
                return False
            self._set(record, state, *words)
            return True

    def _run(self, record: Record, region: str) -> None:
        if record.ended.wait(self.start_delay) or not self._go_on(record, State.SCHEDULED):
            return
        if region in self._without_quota:
            self._tell(record, "OPERATIONAL_INFO", QUOTA)
            if self._without_quota[region]:
                self._go_on(record, State.FAILED, QUOTA)
            return
        if record.ended.wait(self.start_delay) or not self._go_on(record, State.RUNNING):
            return
        begun = time.monotonic()
        while not self._go.wait(0.02):
            if record.ended.is_set():
                return
        with self._lock:
            preempted = self._to_preempt > 0
            self._to_preempt -= preempted
        task = record.job.task_groups[0].task_spec
        # what Batch itself sets, and nothing of this process but where programs are
        record.environment = {
            "PATH": os.environ["PATH"],
            "HOME": self._home.name,
            "BATCH_JOB_UID": record.job.uid,
            "BATCH_TASK_INDEX": "0",
            **self.environment,
            **dict(task.environment.variables),
        }
        with self._lock:
            if record.ended.is_set():
                return
            record.process = subprocess.Popen(
                [*self.command, *record.argv],
                env=record.environment,
                cwd=self._home.name,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        limit = self.preempt_after if preempted else (task.max_run_duration or timedelta.max).total_seconds()
        try:
            record.output, _ = record.process.communicate(timeout=limit)
            code = record.process.returncode
        except subprocess.TimeoutExpired:
            kill(record.process)
            record.output, _ = record.process.communicate()
            code = 50001 if preempted else 50005
        if preempted:
            code = 50001
        with self._lock:
            record.job.status.run_duration = timedelta(seconds=time.monotonic() - begun)
            if code:
                cause = {50001: " due to Spot VM preemption", 50005: " due to exceeded run time"}.get(code, "")
                self._go_on(record, State.FAILED, f"{region}-b/instances/1{cause}", code)
            else:
                self._go_on(record, State.SUCCEEDED)

    def _end(self, record: Record, state: State | None) -> None:
        with self._lock:
            record.ended.set()
        if record.process is not None:
            kill(record.process)
        time.sleep(self.cancel_delay)
        with self._lock:
            if state is not None:
                self._set(record, state)
            else:
                del self._stored[record.job.name]
                self._requests = {k: v for k, v in self._requests.items() if v != record.job.name}

    def close(self) -> None:
        for record in self.jobs:
            record.ended.set()
            if record.process is not None:
                kill(record.process)
        self._home.cleanup()


def kill(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _rest(server: BatchServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if "/jobs/" in self._path():
                self._call("GetJob", {"name": self._path()})
            else:
                self._call("ListJobs", {"parent": self._path().removesuffix("/jobs"), "filter": self._query("filter")})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            path = self._path()
            if path.startswith("control/"):
                name, arguments = path.removeprefix("control/"), json.loads(body)
                found = getattr(server, name)
                self._answer(200, json.dumps(found(*arguments) if callable(found) else found))
            elif path.endswith(":cancel"):
                self._call("CancelJob", {"name": path.removesuffix(":cancel")})
            else:
                asked = {"parent": path.removesuffix("/jobs"), "job": batch_v1.Job.from_json(body)}
                ids = {"job_id": self._query("jobId"), "request_id": self._query("requestId")}
                self._call("CreateJob", {**asked, **ids})

        def do_DELETE(self) -> None:
            self._call("DeleteJob", {"name": self._path()})

        def _path(self) -> str:
            return urlsplit(self.path).path.removeprefix("/v1/").removeprefix("/")

        def _query(self, name: str) -> str:
            return parse_qs(urlsplit(self.path).query).get(name, [""])[0]

        def _call(self, method: str, asked: dict[str, Any]) -> None:
            try:
                answer = server.call(method, asked)
            except RefusalError as error:
                if error.code == LOST:
                    self.close_connection = True
                    return
                status = CODES[error.code].name
                told = {"error": {"code": error.code, "message": str(error), "status": status}}
                self._answer(error.code, json.dumps(told))
                return
            operation = isinstance(answer, operations_pb2.Operation)
            self._answer(200, json_format.MessageToJson(answer) if operation else type(answer).to_json(answer))

        def _answer(self, status: int, text: str) -> None:
            content = text.encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            with suppress(ConnectionError):
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def _grpc(server: BatchServer) -> grpc.GenericRpcHandler:
    operation = operations_pb2.Operation.SerializeToString
    methods: dict[str, tuple[Any, Callable[[Any], bytes]]] = {
        "CreateJob": (batch_v1.CreateJobRequest, batch_v1.Job.serialize),
        "GetJob": (batch_v1.GetJobRequest, batch_v1.Job.serialize),
        "ListJobs": (batch_v1.ListJobsRequest, batch_v1.ListJobsResponse.serialize),
        "CancelJob": (batch_v1.CancelJobRequest, operation),
        "DeleteJob": (batch_v1.DeleteJobRequest, operation),
    }

    def handler(method: str) -> Callable[[Any, grpc.ServicerContext], Any]:
        def handle(request: Any, context: grpc.ServicerContext) -> Any:
            asked = {name: getattr(request, name) for name in type(request).meta.fields}
            try:
                return server.call(method, asked)
            except RefusalError as error:
                return context.abort(CODES.get(error.code, grpc.StatusCode.UNAVAILABLE), str(error))

        return handle

    return grpc.method_handlers_generic_handler(
        "google.cloud.batch.v1.BatchService",
        {
            method: grpc.unary_unary_rpc_method_handler(
                handler(method), request_deserializer=request.deserialize, response_serializer=serializer
            )
            for method, (request, serializer) in methods.items()
        },
    )


@contextmanager
def batch_server(command: Sequence[str] = GCA, environment: Mapping[str, str] | None = None) -> Iterator[BatchServer]:
    """Serve for the time of the block; what runs then is ended with it."""
    server = BatchServer(command, environment)
    http = ThreadingHTTPServer(("127.0.0.1", 0), _rest(server))
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_port}"
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    remote = grpc.server(ThreadPoolExecutor(8), handlers=(_grpc(server),))
    server.grpc = f"http://127.0.0.1:{remote.add_insecure_port('127.0.0.1:0')}"
    remote.start()
    try:
        yield server
    finally:
        server.close()
        remote.stop(None)
        http.shutdown()
        http.server_close()


class Remote:
    """Orders to a server of another process: ``Remote(url).preempt_next(1)``, ``Remote(url).described()``."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def order(*arguments: Any) -> Any:
            request = urllib.request.Request(f"{self.url}/control/{name}", json.dumps(arguments).encode())  # noqa: S310
            with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
                return json.load(answer)

        return order


def storage_of(url: str) -> dict[str, str]:
    """Variables that lead the clients of Google's storage, ours and Google's own, to a loopback bucket."""
    options = json.dumps({"token": "anon", "endpoint_url": url})
    return {"FSSPEC_GS": options, "STORAGE_EMULATOR_HOST": url, "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}


@pytest.fixture
def batch() -> Iterator[BatchServer]:
    """A Batch of one's own that runs the ``gca`` command."""
    with batch_server() as server:
        yield server


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port-file", type=Path, required=True, help="gets the addresses as JSON")
    parser.add_argument("--environment", type=json.loads, default={}, help="variables of the jobs, as JSON")
    parser.add_argument("--command", type=json.loads, default=list(GCA), help="what runs the jobs, as a JSON list")
    given = parser.parse_args()
    with batch_server(given.command, given.environment) as server:
        written = given.port_file.with_suffix(".new")
        written.write_text(json.dumps({"url": server.url, "grpc": server.grpc, "pid": os.getpid()}))
        written.replace(given.port_file)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        signal.pause()


if __name__ == "__main__":
    main()
