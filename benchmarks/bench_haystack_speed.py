"""A run of five iterations, four candidates each, as one process and as ``airflow dags test``: seconds, same result.

Offline, with the backend ``shift``, on the atlas of :mod:`haystack_simulated` without the cells of the asked response.
Every stop rule but the number of iterations is off. The atlas is taken in before; its time doesn't count.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from haystack_simulated import CONTROL, MAIN, World

from gca_core import io
from gca_core.store import embedded

TYPE, PERTURBATION = "CL:0002057", "interferon beta"
ASKED = {
    "cell_type": TYPE,
    "perturbation": PERTURBATION,
    "dataset": "simulated",
    "config": {"candidates_per_iteration": 4, "score_threshold": 10.0, "plateau_window": 10},
}
IN_ONE_PROCESS = f"""
import sys
from gca_core.haystack.models import IterationConfig
from gca_core.haystack.run import run_haystack
asked = {ASKED!r}
asked["config"] = IterationConfig(**asked["config"], max_iterations=5)
run_haystack(**asked, results_uri=sys.argv[1])
"""
DAG = f"""
from airflow.sdk import dag
from airflow_provider_gca.task_groups.haystack import haystack_loop

@dag(schedule=None)
def five_by_four():
    haystack_loop(**{ASKED!r}, iterations=5, results_uri="RESULTS")

five_by_four()
"""


def take_in(folder: Path, environment: dict[str, str]) -> None:
    """The simulated cells into the atlas, but for those that answer the question."""
    cells = World(MAIN).atlas()
    told = (cells.obs["perturbation"] == PERTURBATION) & (cells.obs["cell_type_id"] == TYPE)
    cells[~told.to_numpy()].write_h5ad(folder / "cells.h5ad")
    columns = {
        "perturbation": "perturbation",
        "cell-type": "cell_type",
        "cell-type-id": "cell_type_id",
        "donor": "donor",
    }
    options = [part for name, column in columns.items() for part in (f"--{name}-column", column)]
    command = [str(Path(sys.executable).with_name("gca")), "atlas", "ingest", str(folder / "cells.h5ad")]
    run([*command, "--dataset", "simulated", "--control-value", CONTROL, *options], environment)


def run(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Seconds, and CPU seconds, of a command and all that it starts and waits for."""
    begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stdout[-3000:]}{done.stderr[-3000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.monotonic() - begun, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def came_of(results: Path) -> tuple[str, int, int]:
    """Hash of a run's canonical log, its iterations, and its predictions."""
    (log,) = results.glob("*_log.json")
    found: Any = io.read_json(str(log), what="log")
    iterations = found["canonical"]["run"]["iterations"]
    return found["canonical_sha256"], len(iterations), sum(len(each["evaluations"]) for each in iterations)


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="gca-"))
    home, airflow = folder / "home", folder / "airflow"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GCA_", "AIRFLOW_"))}
    environment = kept | {
        "GCA_HOME": str(home),
        "GCA_CACHE_DIR": str(folder / "cache"),
        "GCA_KEEP_PREDICTIONS": "false",
        "GCA_ENV_FILE": str(folder / "no.env"),
        "AIRFLOW_HOME": str(airflow),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }
    (airflow / "dags").mkdir(parents=True)
    (airflow / "dags" / "five_by_four.py").write_text(DAG.replace("RESULTS", str(folder / "by-airflow")))
    try:
        take_in(folder, environment)
        command = [sys.executable, "-m", "airflow"]
        run([*command, "db", "migrate"], environment)
        print(
            "| a run | s | CPU s | bound, s | iterations | predictions | canonical log |\n|---|---|---|---|---|---|---|"
        )
        for name, bound, asked in (
            ("one process", 60, [sys.executable, "-c", IN_ONE_PROCESS, str(folder / "by-python")]),
            ("airflow dags test", 240, [*command, "dags", "test", "five_by_four"]),
        ):
            took, busy = run(asked, environment)
            sha, iterations, predictions = came_of(folder / ("by-airflow" if "airflow" in name else "by-python"))
            print(
                f"| {name} | {took:.0f} | {busy:.0f} | {bound} | {iterations} | {predictions} | {sha[:12]} |",
                flush=True,
            )
    finally:
        embedded.remove(home)
        subprocess.run(["rm", "-rf", str(folder)], check=False)


if __name__ == "__main__":
    main()
