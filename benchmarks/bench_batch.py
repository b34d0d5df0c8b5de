"""What the operator itself adds to a job on Google Batch, against the loopback service.

    python benchmarks/bench_batch.py [--jobs 10]

From the start of the task to its result (worker, triggerer and worker again, without Airflow's own scheduling), less
the job's time on its machine. Looks are 0.1 s apart. The bound is 3 s a job.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import fsspec

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
# read when Airflow is imported
os.environ["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "CRITICAL"

from airflow_provider_gca.operators.inference import StackBatchOperator
from tests.helpers.batch_jobs import CLOUD, QUICK, Play
from tests.helpers.batch_loopback import batch_server, storage_of
from tests.helpers.gcs_loopback import gcs

BOUND_SECONDS = 3.0


def asked(name: str) -> dict[str, Any]:
    uris = {f"{kind}_uri": f"gs://lab/{name}/{kind}.h5ad" for kind in ("prompt", "control", "query", "output")}
    return {"job_uri": f"gs://lab/{name}/job.json", "requests": [{"candidate_id": name, **uris}]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10)
    jobs = parser.parse_args().jobs
    os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
    seconds = []
    with gcs() as bucket, batch_server([sys.executable, "-IS", "-c", QUICK], storage_of(bucket.url)) as server:
        fsspec.config.conf["gs"] = {"token": "anon", "endpoint_url": bucket.url}
        os.environ["AIRFLOW_CONN_CLOUD"] = json.dumps(json.loads(server.connection))
        for number in range(jobs):
            options = {**CLOUD, **asked(f"c{number}"), "poll_interval_seconds": 0.1}
            begun = time.monotonic()
            Play(lambda options=options: StackBatchOperator(task_id="t", **options)).run()
            seconds.append(time.monotonic() - begun - server.jobs[-1].job.status.run_duration.total_seconds())
    assert server.n_created == jobs
    print("what the operator adds to a job on Google Batch\n")
    print("| jobs | median s | most s | bound s |\n|---|---|---|---|")
    for name, some in (("the first, with the clients' imports", seconds[:1]), (f"{jobs - 1} others", seconds[1:])):
        print(f"| {name} | {statistics.median(some):.2f} | {max(some):.2f} | {BOUND_SECONDS:g} |")
    sys.exit(max(seconds) > BOUND_SECONDS)


if __name__ == "__main__":
    main()
