"""One inference job on Google Batch, under several conditions; the run's configuration says which."""

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param

from airflow_provider_gca.operators.batch import CancelRunJobsOperator
from airflow_provider_gca.operators.inference import StackBatchOperator

PLAN = [{"provisioning": "SPOT", "region": "us-east1"}, {"provisioning": "STANDARD", "region": "us-central1"}]
CLOUD = {"gcp_conn_id": "cloud", "batch": {"image": "us-docker.pkg.dev/lab/gca/stack:1", "plan": PLAN}}
AT_ONCE = timedelta(seconds=0)
VARIANTS: dict[str, dict[str, Any]] = {
    "deferred": {},
    "deferred_once": {"retries": 0},
    "deferred_torn_down": {"retries": 0},
    # the worker itself waits
    "waiting": {"deferrable": False},
    "torn_down": {},
    "waiting_torn_down": {"deferrable": False},
}

for name, options in VARIANTS.items():
    with DAG(
        f"live_batch_{name}",
        schedule=None,
        render_template_as_native_obj=True,
        params={
            "requests": Param([], type="array"),
            "job_uri": Param("", type="string"),
            "timeout_seconds": Param(600, type="number"),
        },
    ) as dag:
        task = StackBatchOperator(
            task_id="predict",
            requests="{{ params.requests }}",
            job_uri="{{ params.job_uri }}",
            timeout_seconds="{{ params.timeout_seconds }}",
            poll_interval_seconds=0.5,
            **{"retries": 20, "retry_delay": AT_ONCE, **CLOUD, **options},
        )
        if name.endswith("torn_down"):
            task >> CancelRunJobsOperator(task_id="cancel", retries=20, retry_delay=AT_ONCE, **CLOUD).as_teardown()
    globals()[dag.dag_id] = dag
