"""Run the three example DAGs on real data with the embedded defaults, and print what came out.

Everything lies under ``.demo/``: a throw-away AIRFLOW_HOME (SQLite, made anew each time), a GCA_HOME with
the embedded PostgreSQL, and the results. The database is stopped at the end, also after an interruption.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from gca_core import io
from gca_core.store import embedded

REPOSITORY = Path(__file__).resolve().parents[1]
DEMO = Path(os.environ.get("GCA_DEMO_DIR", REPOSITORY / ".demo")).resolve()
DAGS = ("gca_annotate", "gca_latent", "gca_haystack")
STOPS = (signal.SIGINT, signal.SIGTERM)
STOP_SECONDS = 15
TASK_LINE = re.compile(
    r"\[DAG TEST\] (?P<what>starting|end task|marking).*?task_id=(?P<task>[^\s=]+)(?: map_index=(?P<index>-?\d+))?"
)

console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)


def demo_environment() -> dict[str, str]:
    """This process's environment with the embedded defaults: no setting of the user's reaches the demo."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GCA_", "AIRFLOW_"))}
    airflow_home = DEMO / "airflow"
    return environment | {
        "AIRFLOW_HOME": str(airflow_home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{airflow_home / 'airflow.db'}",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
        "GCA_ENV_FILE": str(DEMO / "no.env"),
        "GCA_HOME": str(DEMO / "home"),
        "NO_COLOR": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}",
        "PYTHONUNBUFFERED": "1",
    }


def kill_leftovers() -> None:
    """End tasks that no driver waits for: those of a demo that was killed, or one that an interrupt caught starting."""
    killed = []
    for process in psutil.process_iter():
        try:
            if process.pid == os.getpid() or process.name() == "postgres":
                continue
            if process.environ().get("AIRFLOW_HOME") == str(DEMO / "airflow"):
                process.kill()
                killed.append(process)
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    psutil.wait_procs(killed, timeout=STOP_SECONDS)


@contextmanager
def running(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A child with its own process group; nothing below it outlives the block."""
    # one that comes while the child is made would leave it to nobody
    put_off: list[int] = []
    handlers = {number: signal.signal(number, lambda n, _: put_off.append(n)) for number in STOPS}
    child = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in put_off:
            signal.raise_signal(number)
        yield child
    finally:
        if child.poll() is None:
            descendants = psutil.Process(child.pid).children(recursive=True)
            child.terminate()
            try:
                child.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
            for process in descendants:
                if process.is_running() and process.name() != "postgres":
                    process.kill()
            child.wait()


def run_logged(command: list[str], environment: dict[str, str], log: Path) -> int:
    """Run a command, its output into ``log``, its tasks onto the screen; the exit status."""
    started: dict[str, float] = {}
    with log.open("w", encoding="utf-8") as sink, running(command, environment) as child:
        for line in child.stdout or ():
            sink.write(line)
            show_task(line, started)
        return child.wait()


def show_task(line: str, started: dict[str, float]) -> None:
    """Print a line when a task of ``airflow dags test`` ends."""
    if not (match := TASK_LINE.search(line)):
        return
    index = match["index"]
    name = match["task"] if index in {None, "-1"} else f"{match['task']} [{index}]"
    if match["what"] == "starting":
        started[name] = time.monotonic()
    elif match["what"] == "end task" and name in started:
        console.print(f"  {name:<44} {time.monotonic() - started.pop(name):6.1f} s", markup=False)


def run_dag(dag_id: str, environment: dict[str, str]) -> dict[str, Any]:
    """Run one DAG and read the summary its last task wrote."""
    summary = DEMO / "home" / "results" / dag_id / "summary.json"
    summary.unlink(missing_ok=True)
    log = DEMO / "logs" / f"{dag_id}.log"
    console.print(f"[bold]{dag_id}[/bold]")
    status = run_logged(["airflow", "dags", "test", dag_id], environment, log)
    if status != 0 or not summary.exists():
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-40:]
        console.print("\n".join(tail), markup=False)
        raise SystemExit(f"{dag_id} failed with status {status}; the whole log is in {log}")
    result: dict[str, Any] = io.read_json(summary)
    return result


def show(results: list[dict[str, Any]]) -> None:
    """Print the closing table, and where the files lie."""
    table = Table(title="airflow-provider-gca demo", show_lines=True)
    for column in ("system", "ran on", "metrics", "seconds"):
        table.add_column(column, justify="right" if column == "seconds" else "left", overflow="fold")
    for result in results:
        figures = Table.grid(padding=(0, 2))
        for name, value in result["metrics"].items():
            figures.add_row(name, f"{value:.3f}" if isinstance(value, float) else str(value))
        table.add_row(result["system"], result["ran_on"], figures, f"{result['seconds']:.0f}")
    console.print(table)
    for result in results:
        paths = sorted(Path(str(io.as_path(uri))) for uri in result["files"].values())
        folder = Path(os.path.commonpath([path.parent for path in paths]))
        shown = folder.relative_to(REPOSITORY) if folder.is_relative_to(REPOSITORY) else folder
        names = "  ".join(str(path.relative_to(folder)) for path in paths)
        console.print(f"{result['system']} results in {shown}\n  {names}", markup=False, soft_wrap=True)


def main() -> None:
    """Set up, run, print, and leave no process behind."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # a shell that starts it in the background has interrupts ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    started = time.monotonic()
    environment = demo_environment()
    kill_leftovers()
    shutil.rmtree(DEMO / "airflow", ignore_errors=True)
    for folder in ("airflow", "home", "logs"):
        (DEMO / folder).mkdir(parents=True, exist_ok=True)
    try:
        console.print("[bold]preparing a throw-away Airflow[/bold]")
        log = DEMO / "logs" / "db_migrate.log"
        if run_logged(["airflow", "db", "migrate"], environment, log) != 0:
            raise SystemExit(f"airflow db migrate failed; see {log}")
        results = [run_dag(dag_id, environment) for dag_id in DAGS]
    except KeyboardInterrupt:
        raise SystemExit("interrupted; run make demo again to finish") from None
    finally:
        # a second interrupt would leave behind what the first one had not ended yet
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        kill_leftovers()
        embedded.stop(DEMO / "home")
    show(results)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    console.print(f"{time.monotonic() - started:.0f} s in all, largest process {peak:.1f} GB")


if __name__ == "__main__":
    main()
