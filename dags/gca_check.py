"""See what an environment lacks, from one of its own workers: each task is a part, and a red one says what to do.

Nothing is downloaded, no model is called, and the one small file that is written goes again. Made for Composer, where
nobody can sign in to a worker; it tells the same anywhere else.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import Param, dag, task

from airflow_provider_gca.utils.failures import fails_as_task

# what each extra is there for
MODULES = {
    "scanpy": ("scanpy", "anndata", "igraph", "zarr"),
    "vae": ("torch", "scanpy"),
    "haystack": ("psycopg", "pgvector", "langchain_core"),
    "gcs": ("gcsfs",),
    "google": ("google.cloud.batch_v1", "airflow.providers.google"),
}


@dag(
    dag_id="gca_check",
    schedule=None,
    catchup=False,
    tags=["gca"],
    doc_md=__doc__,
    params={
        "extras": Param(
            ["scanpy", "haystack"],
            type="array",
            items={"enum": sorted(MODULES)},
            description="The extras that your DAGs need.",
        ),
        "batch_region": Param("", type="string", description="List jobs on Google Batch there, or nowhere."),
        "gcp_conn_id": Param("google_cloud_default", type="string", description="The connection to list them with."),
    },
)
def gca_check() -> None:
    @task(multiple_outputs=False)
    @fails_as_task
    def packages(params: Any = None) -> dict[str, str]:
        """Versions, and every module that the extras bring."""
        import platform
        from importlib import metadata

        from gca_core.config import require

        for extra in params["extras"]:
            for module in MODULES[extra]:
                require(module, extra)
        return {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("apache-airflow", "airflow-provider-gca")},
        }

    @task(multiple_outputs=False)
    @fails_as_task
    def plugin() -> list[str]:
        """The entry points that Airflow finds the provider and its page by."""
        from importlib.metadata import entry_points

        from gca_core.errors import ConfigurationError

        found = [
            point.load().__name__
            for group in ("apache_airflow_provider", "airflow.plugins")
            for point in entry_points(group=group)
            if point.value.startswith("airflow_provider_gca")
        ]
        if len(found) != 2:
            raise ConfigurationError(
                f"found {found}: install the package itself, not only its files in dags/ or plugins/"
            )
        return found

    # [START howto_check_results]
    @task(multiple_outputs=False)
    @fails_as_task
    def results() -> str:
        """Write a small file below the results root, read it, and delete it."""
        from uuid import uuid4

        from gca_core import io
        from gca_core.config import load_settings

        uri = io.join_uri(load_settings().results_root(), f"gca-check-{uuid4().hex}.txt")
        with io.reaching(uri):
            io.write_text(uri, "a check")
            try:
                io.read_text(uri)
            finally:
                io.as_path(uri).unlink()
        return str(load_settings().results_root())

    # [END howto_check_results]

    @task(multiple_outputs=False)
    @fails_as_task
    def atlas() -> str:
        """Connect to the database of atlas and run records, which has to have the tables of this version."""
        from airflow_provider_gca.hooks.atlas import AtlasHook

        hook = AtlasHook()
        hook.get_run_store().list_runs(1)
        return hook.test_connection()[1]

    @task(multiple_outputs=False)
    @fails_as_task
    def model() -> str:
        """Which language model would be asked; a faulty connection or setting is told."""
        from airflow_provider_gca.hooks.llm import LlmHook

        config = LlmHook().get_conn()
        return "none is named, so none is called" if config is None else config.name

    @task(multiple_outputs=False)
    @fails_as_task
    def batch(params: Any = None) -> str:
        """List jobs on Google Batch, with the rights of the connection."""
        if not params["batch_region"]:
            return "not asked for"
        from airflow_provider_gca.hooks.batch import StackBatchHook
        from gca_core.errors import ConfigurationError

        hook = StackBatchHook(params["gcp_conn_id"])
        if not hook.project_id:
            raise ConfigurationError(f"the connection {hook.gcp_conn_id!r} names no project; put it into its extra")
        hook.service().list_run(hook.project_id, [params["batch_region"]], "gca-check")
        return f"jobs of {hook.project_id} in {params['batch_region']} may be listed"

    for part in (packages, plugin, results, atlas, model, batch):
        part()


gca_check()
