"""Run one inference job as a subprocess of the task, which may be tried once more."""

from datetime import timedelta

from airflow.sdk import Param, dag

from airflow_provider_gca.operators.inference import StackBatchOperator


@dag(
    schedule=None,
    render_template_as_native_obj=True,
    params={"requests": Param([], type="array"), "job_uri": Param("", type="string")},
)
def live_local():
    StackBatchOperator(
        task_id="infer",
        requests="{{ params.requests }}",
        job_uri="{{ params.job_uri }}",
        execution="local",
        retries=1,
        retry_delay=timedelta(seconds=1),
    )


live_local()
