"""A cohort of synthetic files through ``gca_annotate_cohort`` in an Airflow that really runs, with LocalExecutor.

Says how many files an hour come out, what Airflow adds to the annotation, and how much the tasks hand on. The first
rows are a cohort of a tenth of the files, so that what doesn't grow with their number shows. Cells are drawn from those
of Kang et al. 2018 that come with the package, each count thinned by chance; of every ten files nine are links to files
drawn before.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import psycopg

# before other packages that bring a folder of this name
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gca_core.datasets import kang2018_mini
from tests.helpers.live_airflow import REPOSITORY, LiveAirflow, live_airflow

DAG = "gca_annotate_cohort"
SERVERS = ("scheduler", "api-server", "triggerer")


def write_files(folder: Path, files: int, cells: int, seed: int = 0) -> None:
    """Write h5ad files with the clusters of the cells in ``cluster``."""
    rng, source = np.random.default_rng(seed), kang2018_mini()
    folder.mkdir()
    drawn = max(1, files // 10)
    for i in range(files):
        path = folder / f"sample_{i:03}.h5ad"
        if i >= drawn:
            os.link(folder / f"sample_{i % drawn:03}.h5ad", path)
            continue
        one = source[rng.integers(source.n_obs, size=cells)].copy()
        one.obs_names_make_unique()
        one.X.data = rng.binomial(one.X.data.astype(int), 0.9).astype(np.float32)
        one.X.eliminate_zeros()
        one.obs = one.obs[["cell_type"]].rename(columns={"cell_type": "cluster"})
        one.write_h5ad(path, compression="lzf")


def seconds_of(airflow: LiveAirflow) -> dict[str, float]:
    """CPU seconds of each server; those of the scheduler's workers and tasks stand apart."""
    spent = {}
    for name in SERVERS:
        process = psutil.Process(airflow.processes[name].pid)
        own = process.cpu_times()
        below = [p.cpu_times() for p in process.children(recursive=True)]
        spent[name] = own.user + own.system
        spent[f"below {name}"] = (
            own.children_user
            + own.children_system
            + sum(t.user + t.system + t.children_user + t.children_system for t in below)
        )
    return spent


def task_instances(airflow: LiveAirflow, run: str) -> Iterator[dict[str, Any]]:
    """Those of a run, page by page."""
    offset = 0
    while page := airflow.get(f"{run}/taskInstances", limit=100, offset=offset)["task_instances"]:
        yield from page
        offset += len(page)


def annotate(airflow: LiveAirflow, folder: Path, files: int) -> dict[str, str]:
    """Run the DAG over a folder, and say what it took."""
    before, start = seconds_of(airflow), time.monotonic()
    run = airflow.trigger(DAG, input_prefix=str(folder), output_uri=f"{folder}-annotated", cluster_key="cluster")
    while (state := airflow.get(run)["state"]) not in ("success", "failed"):
        time.sleep(5)
        done = airflow.get(f"{run}/taskInstances", task_id="annotate", state="success", limit=1)["total_entries"]
        print(f"\r{done} of {files} files, {time.monotonic() - start:.0f} s", end="", file=sys.stderr)
    wall = time.monotonic() - start
    print(file=sys.stderr)
    if state == "failed":
        raise SystemExit(airflow.log(run)[-5000:])
    after = seconds_of(airflow)
    spent = {name: after[name] - before[name] for name in before}
    instances = list(task_instances(airflow, run))
    mapped = sorted(t["duration"] for t in instances if t["task_id"] == "annotate")
    others = {t["task_id"]: t["duration"] for t in instances if t["duration"] and t["task_id"] in ("plan", "join")}
    dsn = airflow.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].replace("+psycopg", "")
    sizes = "select octet_length(value::text) from xcom where run_id = %s"
    with psycopg.connect(dsn) as database:
        handed = [size for (size,) in database.execute(sizes, [run.rpartition("/")[2]])]
    assert len(mapped) == files
    return {
        "files": str(files),
        "wall s": f"{wall:.0f}",
        "files an hour": f"{files / wall * 3600:.0f}",
        "a file's task, median and most, s": f"{mapped[files // 2]:.1f}, {mapped[-1]:.1f}",
        "`plan`, `join`, s": f"{others.get('plan', 0):.1f}, {others.get('join', 0):.1f}",
        "CPU s a file: workers": f"{spent['below scheduler'] / files:.1f}",
        "scheduler": f"{spent['scheduler'] / files:.2f}",
        "API server": f"{(spent['api-server'] + spent['below api-server']) / files:.2f}",
        "XCom KiB, all and largest": f"{sum(handed) / 1024:.0f}, {max(handed) / 1024:.1f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=20)
    parser.add_argument("--cells", type=int, default=20_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gca-cohort-") as temporary:
        sizes = sorted({max(1, given.files // 10), given.files})
        for files in sizes:
            write_files(Path(temporary) / f"cohort_{files}", files, given.cells)
        workers = os.cpu_count() or 1
        with live_airflow(REPOSITORY / "dags", {}, parallelism=workers) as airflow:
            rows = [annotate(airflow, Path(temporary) / f"cohort_{files}", files) for files in sizes]
    print(f"{given.cells:,} cells a file, clusters given; {workers} workers of LocalExecutor on {workers} cores\n")
    print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(row.values()) + " |")
    print(json.dumps({"load": os.getloadavg()}), file=sys.stderr)


if __name__ == "__main__":
    main()
