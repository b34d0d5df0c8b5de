"""Try a wheel beside one version of Airflow, in a new environment and without the repository; print a row of results.

``try_airflow.py dist/*.whl --airflow 3.1 --also 'anndata==0.12.0'``. It runs with the interpreter that is tried, and
leaves environment, logs and results in the folder that it names where something fails.
"""

import argparse
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

COLUMNS = ("Airflow", "Python", "with", "installs", "plugin", "example DAGs", "annotation", "HAYSTACK", "page")
SHOWN = ("anndata", "scanpy", "langchain-core")


class Trial:
    """One environment, away from the repository."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "venv" / "bin" / "python"
        self.port = free_port()
        self.login = {"username": "admin", "password": secrets.token_hex()}
        (folder / "passwords.json").write_text(json.dumps({self.login["username"]: self.login["password"]}))
        kept = {n: v for n, v in os.environ.items() if not n.startswith(("AIRFLOW_", "GCA_", "PYTHON", "VIRTUAL_ENV"))}
        self.environment = kept | {
            "AIRFLOW_HOME": str(folder / "airflow"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(folder / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(folder / "passwords.json"),
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self.port),
            "GCA_HOME": str(folder / "gca"),
            "GCA_CACHE_DIR": str(folder / "cache"),
            "GCA_ENV_FILE": str(folder / "no.env"),
            "PATH": f"{self.python.parent}{os.pathsep}{os.environ['PATH']}",
        }

    def run(self, *words: str | Path, timeout: float = 1200) -> str:
        """What a command of the environment prints; its whole output goes into the log."""
        command = [str(self.python.parent / str(words[0])), *map(str, words[1:])]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=self.folder, env=self.environment, timeout=timeout, check=False
        )
        with (self.folder / "log.txt").open("a", encoding="utf-8") as log:
            log.write(f"$ {' '.join(command)}\n{done.stdout}{done.stderr}\n")
        if done.returncode != 0:
            raise RuntimeError(
                f"{' '.join(command)} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-2500:]}"
            )
        return done.stdout

    def installs(self, wheel: Path, airflow: str, also: list[str], constraints: Path | None) -> str:
        """Install the wheel with its extras beside that Airflow; nothing in the environment may be at odds."""
        venv.create(self.folder / "venv", with_pip=True)
        pins = ["-c", str(constraints)] if constraints else [f"apache-airflow=={airflow}.*"]
        self.run(
            "python",
            "-m",
            "pip",
            "install",
            "-q",
            "--no-compile",
            f"{wheel}[scanpy,haystack,embedded]",
            *pins,
            *also,
            timeout=3600,
        )
        self.run("python", "-m", "pip", "check")
        return f"{sum(p.stat().st_size for p in (self.folder / 'venv').rglob('*') if p.is_file()) / 1e9:.1f} GB"

    def plugin(self) -> str:
        """Airflow knows the provider, and loads the plugin without an error."""
        self.run("airflow", "db", "migrate")
        self.run("airflow", "providers", "get", "airflow-provider-gca")
        (found,) = (p for p in self._listed("plugins") if p["name"] == "gca")
        return f"{len(found.get('external_views') or [])} links" if found.get("external_views") else "yes"

    def example_dags(self) -> str:
        """Every copied example DAG is read without an error."""
        self.run("gca", "examples", "copy", self.folder / "dags")
        self.run("airflow", "dags", "reserialize")
        errors = self._listed("dags", "list-import-errors")
        if errors:
            raise RuntimeError(f"DAGs with errors: {errors}")
        read = {dag["dag_id"] for dag in self._listed("dags", "list")}
        missing = {path.stem for path in (self.folder / "dags").glob("*.py")} - read
        if missing:
            raise RuntimeError(f"DAGs that Airflow doesn't list: {sorted(missing)}")
        return f"{len(read)} read"

    def _listed(self, *words: str) -> list[dict[str, Any]]:
        """What ``airflow`` lists, below the warnings that some versions print first."""
        printed = self.run("airflow", *words, "-o", "json")
        start = re.search(r"^\[", printed, re.MULTILINE)
        return [] if start is None else list(json.loads(printed[start.start() :]))

    def dag(self, dag_id: str) -> str:
        """Run an example DAG from its first task to its last."""
        self.run("airflow", "dags", "test", dag_id, timeout=3600)
        if not (self.folder / "gca" / "results" / dag_id / "summary.json").exists():
            raise RuntimeError(f"{dag_id} wrote no summary")
        return "runs"

    def page(self) -> str:
        """Airflow's API server shows the page to those who are signed in, and to nobody else."""
        with (self.folder / "api-server.txt").open("w") as log:
            server = subprocess.Popen(
                [self.python.with_name("airflow"), "api-server"],
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            token = json.loads(self._ask("/auth/token", body=self.login, patience=180))["access_token"]
            signed_in = {"Authorization": f"Bearer {token}"}
            if "<html" not in self._ask("/gca/", signed_in) or "healthy" not in self._ask("/gca/api/health", signed_in):
                raise RuntimeError("the page is no page")
            for path in ("/gca/runs", "/gca/atlas", "/gca/api/runs", "/gca/api/metadata"):
                self._ask(path, signed_in)
            try:
                self._ask("/gca/api/runs")
            except urllib.error.HTTPError as refused:
                return f"{refused.code} to strangers"
            raise RuntimeError("strangers see runs")
        finally:
            os.killpg(server.pid, 15)
            server.wait(60)

    def _ask(
        self,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, str] | None = None,
        patience: float = 0,
    ) -> str:
        deadline = time.monotonic() + patience
        while True:
            try:
                asked = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=dict(headers or {}))
                if body is not None:
                    asked.data = json.dumps(body).encode()
                    asked.add_header("Content-Type", "application/json")
                with urllib.request.urlopen(asked, timeout=60) as answer:  # noqa: S310 - of this machine  # nosec B310
                    return str(answer.read().decode())
            except urllib.error.HTTPError:
                raise
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(1)

    def versions(self) -> dict[str, str]:
        """What was installed."""
        listed = json.loads(self.run("python", "-m", "pip", "list", "--format", "json"))
        return {part["name"]: part["version"] for part in listed}


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def main() -> None:
    """Try one after another, and go on where one fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--airflow", default="3.1", help="its version without the last number")
    parser.add_argument("--also", action="append", default=[], help="another requirement, such as anndata==0.12.0")
    parser.add_argument("--constraints", type=Path, help="take these versions, Airflow's among them")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="gca-try-"))
    trial, found, failed = Trial(folder), {}, False
    constraints = arguments.constraints and arguments.constraints.resolve()
    steps: list[tuple[str, Callable[[], str]]] = [
        ("installs", lambda: trial.installs(arguments.wheel.resolve(), arguments.airflow, arguments.also, constraints)),
        ("plugin", trial.plugin),
        ("example DAGs", trial.example_dags),
        ("annotation", lambda: trial.dag("gca_annotate")),
        ("HAYSTACK", lambda: trial.dag("gca_haystack")),
        ("page", trial.page),
    ]
    try:
        for name, step in steps:
            try:
                found[name] = step()
            except (RuntimeError, OSError, ValueError, subprocess.TimeoutExpired) as error:
                found[name], failed = "no", True
                print(f"{name}: {error}", file=sys.stderr)
                if name == "installs":
                    break
        there = trial.versions()
    finally:
        if trial.python.exists():
            subprocess.run([trial.python.with_name("gca"), "db", "stop"], env=trial.environment, check=False)
    found |= {
        "Airflow": there.get("apache-airflow", arguments.airflow),
        "Python": ".".join(map(str, sys.version_info[:3])),
        "with": ", ".join(f"{name} {there[name]}" for name in SHOWN if name in there),
    }
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    print("| " + " | ".join(found.get(name, "") for name in COLUMNS) + " |")
    if failed:
        print(f"see {folder}", file=sys.stderr)
        sys.exit(1)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
