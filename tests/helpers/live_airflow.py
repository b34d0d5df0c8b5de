"""An Airflow that really runs, in a folder of its own: every process is there, and can be killed and started again.

``python -m tests.helpers.live_airflow HOME`` is its keeper: once its standard input ends, because the tests are
over or were killed, it ends everything that runs for that folder and deletes it.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil

from gca_core.store import embedded, layout

Found = TypeVar("Found")
REPOSITORY = Path(__file__).resolve().parents[2]
# in the environment of every process; proctitle would write over it
MARK = "GCA_LIVE_FOLDER"
COMPONENTS = {
    "api-server": (),
    "scheduler": ("--skip-serve-logs",),
    "triggerer": ("--skip-serve-logs",),
    "dag-processor": ("--num-runs", "1"),
}
# seconds that anything may take: other work on the machine can slow it by a factor of four
PATIENCE = 600
OVER = ("success", "failed", "skipped", "upstream_failed", "removed")
# everything that notices a death does so within seconds
SECONDS = {
    "scheduler": {
        "job_heartbeat_sec": 1,
        "scheduler_heartbeat_sec": 1,
        "scheduler_idle_sleep_time": 0.3,
        "scheduler_health_check_threshold": 15,
        "orphaned_tasks_check_interval": 3,
        "task_instance_heartbeat_timeout": 30,
        "task_instance_heartbeat_timeout_detection_interval": 2,
        # also how long a task's token allows it to start
        "task_queued_timeout": 120,
        "task_queued_timeout_check_interval": 10,
        "trigger_timeout_check_interval": 1,
    },
    "triggerer": {"job_heartbeat_sec": 1, "triggerer_health_check_threshold": 10},
    "workers": {"min_heartbeat_interval": 1, "missing_dag_retry_delay": 2, "execution_api_timeout": 60},
}


class LiveAirflow:
    """API server, scheduler with LocalExecutor and triggerer, on an embedded PostgreSQL.

    Args:
        dags: the folder of the DAGs.
        environment: variables of its processes beside their own.
        parallelism: workers of the executor.
        roles: users, who sign in with their name as password, and their roles; the first has to be an admin. Without
            any, everybody is an admin.
    """

    def __init__(
        self,
        dags: Path,
        environment: Mapping[str, str],
        parallelism: int = 8,
        roles: Mapping[str, str] | None = None,
    ) -> None:
        # sockets want a short path
        self.home = Path(tempfile.mkdtemp(prefix="gca-live-"))
        # what takes long to import is there before tasks are forked
        (self.home / "config").mkdir()
        (self.home / "config" / "airflow_local_settings.py").write_text("import google.cloud.batch_v1\n")
        self.gca_home = self.home / "gca"
        self.roles = dict(roles or {})
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._keeper = subprocess.Popen(
            [sys.executable, "-m", __name__, str(self.home)],
            stdin=subprocess.PIPE,
            cwd=REPOSITORY,
            start_new_session=True,
        )
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.environment = {**self._environment(dags, parallelism, port), **environment}
        self._client = httpx.Client(base_url=f"{self.url}/api/v2", timeout=PATIENCE)

    def _environment(self, dags: Path, parallelism: int, port: int) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW_", "GCA_"))}
        database = self._make_database()
        passwords = self.home / "passwords.json"
        passwords.write_text(json.dumps({name: name for name in self.roles}))
        settings = {
            "core__dags_folder": dags,
            "core__load_examples": False,
            "core__executor": "LocalExecutor",
            "core__parallelism": parallelism,
            "core__simple_auth_manager_all_admins": not self.roles,
            "core__simple_auth_manager_users": ",".join(f"{name}:{role}" for name, role in self.roles.items()),
            "core__simple_auth_manager_passwords_file": passwords,
            "core__execution_api_server_url": f"{self.url}/execution/",
            "database__sql_alchemy_conn": database,
            "database__sql_alchemy_conn_async": database,
            "logging__base_log_folder": self.home / "logs",
            "api__host": "127.0.0.1",
            "api__port": port,
            "api__base_url": self.url,
            "api__secret_key": "of-these-tests",
            "api_auth__jwt_secret": "of-these-tests" * 5,
            **{f"{section}__{name}": value for section, names in SECONDS.items() for name, value in names.items()},
        }
        return {
            **kept,
            **{f"AIRFLOW__{name.upper()}": str(value) for name, value in settings.items()},
            "AIRFLOW_HOME": str(self.home),
            "GCA_HOME": str(self.gca_home),
            "GCA_CACHE_DIR": str(self.home / "cache"),
            # each test wants a job of its own for the same cells
            "GCA_KEEP_PREDICTIONS": "false",
            "GCA_ENV_FILE": str(self.home / "no.env"),
            "GCA_MACHINE_PROFILE": "none",
            "PYTHONPATH": str(REPOSITORY),
            "SPT_NOENV": "1",
            MARK: str(self.home),
        }

    def _make_database(self) -> str:
        import psycopg

        from gca_core.store.redact import make_dsn, parse_dsn

        self.gca_home.mkdir()
        server = embedded.start(self.gca_home)
        user, password = layout.SUPERUSER, layout.read_credentials(self.gca_home)["postgres"]
        login = parse_dsn(server.dsn()) | {"dbname": "postgres", "user": user, "password": password}
        with psycopg.connect(make_dsn(**login), autocommit=True) as connection:
            connection.execute("create database airflow")
        return f"postgresql+psycopg://{user}:{password}@/airflow?host={login['host']}&port={login['port']}"

    def start(self) -> None:
        """Make the tables, start every process, and wait until all are well and the DAGs are known."""
        subprocess.run(
            [sys.executable, "-m", "airflow", "db", "migrate"],
            check=True,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            timeout=PATIENCE,
        )
        for name in COMPONENTS:
            self.start_one(name)
        self.wait(self._well, "every component to be well and the DAGs to be read")
        if self.roles:
            self._client.headers.update(self.sign_in(next(iter(self.roles))))

    def sign_in(self, user: str) -> dict[str, str]:
        """The header that makes a request this user's."""
        token = httpx.post(
            f"{self.url}/auth/token", json={"username": user, "password": user}, timeout=PATIENCE
        ).raise_for_status()
        return {"Authorization": f"Bearer {token.json()['access_token']}"}

    def _well(self) -> bool:
        # the API of tasks is made at its first request, which can take longer than a task waits
        httpx.get(f"{self.url}/execution/health", timeout=PATIENCE).raise_for_status()
        health = self.get("/monitor/health")
        well = all(health[name]["status"] == "healthy" for name in ("metadatabase", "scheduler", "triggerer"))
        return well and self.processes["dag-processor"].poll() == 0

    def start_one(self, name: str) -> None:
        """Start a component, as often as it was ended before."""
        command = [sys.executable, "-m", "airflow", name, *COMPONENTS[name]]
        with (self.home / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command, env=self.environment, stdout=log, stderr=log, start_new_session=True, cwd=self.home
            )

    def end_one(self, name: str, number: int = signal.SIGKILL) -> None:
        """Send a component a signal and wait for its end; a scheduler takes its workers and their tasks with it.

        They share its connections to the database, which would keep its locks for as long as they live.
        """
        process = self.processes[name]
        below = descendants(psutil.Process(process.pid)) if name == "scheduler" else []
        process.send_signal(number)
        process.wait(PATIENCE)
        kill(below)

    def restart(self, name: str, number: int = signal.SIGKILL) -> None:
        """End a component and start it again; the ``database`` ends as in a crash, with every connection to it."""
        if name == "database":
            server = psutil.Process(embedded.status(self.gca_home)[0].pid)
            server.send_signal(signal.SIGQUIT)
            server.wait(PATIENCE)
            embedded.start(self.gca_home)
            return
        self.end_one(name, number)
        self.start_one(name)

    def revive(self) -> None:
        """Start what has ended by itself, as whoever keeps services up does."""
        for name, process in self.processes.items():
            if name != "dag-processor" and process.poll() is not None:
                self.start_one(name)

    def kill_worker(self, task: Mapping[str, Any]) -> None:
        """End the process of a task instance, what is below it, and its supervisor: its machine is lost."""
        process = psutil.Process(task["pid"])
        supervisor = process.parent()
        assert supervisor is not None
        kill([*descendants(process), process, supervisor])

    def get(self, path: str, **params: Any) -> Any:
        """What the API says."""
        return self._client.get(path, params=params).raise_for_status().json()

    def unpause(self, dag_id: str) -> None:
        """Let a DAG's runs begin."""
        self._client.patch(f"/dags/{dag_id}", json={"is_paused": False}).raise_for_status()

    def trigger(self, dag_id: str, **conf: Any) -> str:
        """Start a run of a DAG and return its path in the API."""
        self.unpause(dag_id)
        answer = self._client.post(f"/dags/{dag_id}/dagRuns", json={"logical_date": None, "conf": conf})
        assert answer.status_code == 200, answer.text
        return f"/dags/{dag_id}/dagRuns/{answer.json()['dag_run_id']}"

    def tasks(self, run: str) -> list[dict[str, Any]]:
        """The task instances of a run."""
        return list(self.get(f"{run}/taskInstances")["task_instances"])

    def mark_run(self, run: str, state: str) -> None:
        """Mark a run as a user does."""
        self._client.patch(run, json={"state": state}).raise_for_status()

    def clear(self, run: str, *task_ids: str) -> None:
        """Clear tasks of a run as a user does."""
        _, _, dag_id, _, run_id = run.split("/")
        asked = {"dry_run": False, "dag_run_id": run_id, "task_ids": task_ids, "only_failed": False}
        self._client.post(f"/dags/{dag_id}/clearTaskInstances", json=asked).raise_for_status()

    def output(self, run: str, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        """What a task handed on."""
        path = f"{run}/taskInstances/{task_id}/xcomEntries/{key}"
        return self.get(path, map_index=map_index, deserialize=True)["value"]

    def log(self, run: str) -> str:
        """The logs of a run's tasks, with those of their triggers."""
        _, _, dag_id, _, run_id = run.split("/")
        files = sorted((self.home / "logs").glob(f"dag_id={dag_id}/run_id={run_id}/**/*.log*"))
        return "\n".join(f"== {file.name}\n{file.read_text()}" for file in files)

    def wait_for_task(self, run: str, *states: str, task_id: str | None = None) -> dict[str, Any]:
        """The first task instance of a run, or of one task of it, that gets into one of these states."""

        def found() -> dict[str, Any] | None:
            tasks = [task for task in self.tasks(run) if task_id in (None, task["task_id"])]
            return next((task for task in tasks if task["state"] in states), None)

        return self.wait(found, f"{task_id or 'a task'} of {run} to be {' or '.join(states)}", run)

    def wait_for_run(self, run: str, *states: str) -> None:
        """Wait until a run is in one of these states."""
        self.wait(lambda: self.get(run)["state"] in states, f"{run} to be {' or '.join(states)}", run)

    def wait(self, condition: Callable[[], Found], what: str, run: str | None = None) -> Found:
        """The first true answer of a condition; where there is none in time, the end of every log is shown."""
        if found := wait_for(condition):
            return found
        logs = [f"== {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in self.home.glob("*.log")]
        states = [(t["task_id"], t["map_index"], t["try_number"], t["state"]) for t in self.tasks(run)] if run else ""
        said = [f"waited {PATIENCE} s for {what}: {states}", *logs, self.log(run) if run else ""]
        raise AssertionError("\n".join(said))

    def close(self) -> None:
        """End everything and delete the folder."""
        self._client.close()
        assert self._keeper.stdin is not None
        self._keeper.stdin.close()
        self._keeper.wait(PATIENCE)


@contextlib.contextmanager
def live_airflow(dags: Path, environment: Mapping[str, str], **more: Any) -> Iterator[LiveAirflow]:
    """A running Airflow for the time of the block."""
    airflow = LiveAirflow(dags, environment, **more)
    try:
        airflow.start()
        yield airflow
    finally:
        airflow.close()


def in_time() -> float:
    """30 seconds of a machine of one's own; on one that others load, longer by its processes per core."""
    return 30 * max(1, os.getloadavg()[0] / (os.cpu_count() or 1))


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for(condition: Callable[[], Found]) -> Found | None:
    """The first true answer of a condition, if there is one in time."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        # the API server may be among the dead
        with contextlib.suppress(httpx.HTTPError):
            if found := condition():
                return found
        time.sleep(0.3)
    return None


def alive(process: psutil.Process) -> bool:
    """Whether a process works, as far as one can see."""
    return quietly(lambda: process.is_running() and process.status() != psutil.STATUS_ZOMBIE, False)


def quietly(ask: Callable[[], Found], otherwise: Found) -> Found:
    """What a process says of itself, while it is there."""
    try:
        return ask()
    except psutil.Error:
        return otherwise


def marked(home: Path) -> list[psutil.Process]:
    """Processes that run for that folder."""
    return [p for p in psutil.process_iter() if quietly(p.environ, {}).get(MARK) == str(home)]


def descendants(process: psutil.Process) -> list[psutil.Process]:
    return quietly(lambda: process.children(recursive=True), [])


def kill(processes: list[psutil.Process], number: int = signal.SIGKILL) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def keep(home: Path) -> None:
    """Wait for the end of the tests, then end what runs for that folder, and delete it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.read()
    while processes := [process for process in marked(home) if process.pid != os.getpid()]:
        kill([*(child for process in processes for child in descendants(process)), *processes])
        psutil.wait_procs(processes, timeout=5)
    embedded.remove(home / "gca")
    shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    keep(Path(sys.argv[1]))
