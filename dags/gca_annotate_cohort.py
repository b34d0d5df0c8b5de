"""Label the clusters of every AnnData file under a prefix, and join the reports and the review queue.

With no parameter set it takes the bundled cells of Kang et al. 2018, a file for each condition, and works offline. Each
file is a mapped task with results of its own; one that fails leaves the others as they are, and the summary names it.
Beside the files' folders lie `cohort.html`, `cohort.csv` and `composition.csv`, and `review.csv` and `review.html` with
the clusters somebody should look at. With `review` the run waits for a reviewer, who labels the flagged clusters in
Airflow's form, and goes on with these labels applied. Each annotated file is an event under the asset alias
`gca_annotated`.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import Param, dag, task

from airflow_provider_gca.operators.annotation import AnnotateAnnDataOperator
from airflow_provider_gca.task_groups.review import review_clusters
from airflow_provider_gca.utils.failures import fails_as_task

OPTIONAL = ["null", "string"]
# files that are annotated at a time, over all runs of the DAG: each holds its cells in memory
AT_A_TIME = 4


@dag(
    dag_id="gca_annotate_cohort",
    schedule=None,
    catchup=False,
    tags=["gca", "annotation"],
    doc_md=__doc__,
    params={
        "input_prefix": Param(
            None,
            type=OPTIONAL,
            description="Folder, or beginning of names, with h5ad, zarr or loom files; empty takes the bundled cells.",
        ),
        "output_uri": Param(
            None, type=OPTIONAL, description="Folder for the results; empty takes one of its own for each run."
        ),
        "cluster_key": Param(
            None, type=OPTIONAL, description="Column of obs with the clusters; empty clusters the cells first."
        ),
        "label_column": Param(
            None, type=OPTIONAL, description="Column of obs with known labels to compare with, in your own files."
        ),
        "species": Param("human", type="string", description="Species of the cells."),
        "tissue": Param("blood", type=OPTIONAL, description="Tissue of the cells, where known."),
        "vocabulary": Param(
            None,
            type=OPTIONAL,
            description="Names to write the labels in, too: broad, or a table with label and ontology_id.",
        ),
        "corrections": Param(
            None, type=OPTIONAL, description="Corrections of this cohort that 'gca review --apply' wrote."
        ),
        "gca_llm_conn_id": Param(
            None, type=OPTIONAL, description="Connection of the model to ask; empty works offline and calls nothing."
        ),
        "review": Param(False, type="boolean", description="Wait for a reviewer to label the flagged clusters."),
        "max_failed": Param(
            0, type="integer", minimum=0, description="The run fails, after all is written, if more files failed."
        ),
    },
)
def gca_annotate_cohort() -> None:
    @task(multiple_outputs=True)
    @fails_as_task
    def prepare(dag_run: Any = None, params: Any = None) -> dict[str, str]:
        """Say what to annotate, and where the results go."""
        from airflow_provider_gca.utils.summary import results_folder
        from gca_core.io import join_uri, staged

        folder = results_folder(dag_run.dag_id, dag_run.run_id)
        output = params["output_uri"] or join_uri(folder, "results")
        if params["input_prefix"]:
            return {"input": params["input_prefix"], "output": output}
        from gca_core.datasets import kang2018_mini

        cells, uri = kang2018_mini(), join_uri(folder, "input")
        for condition in cells.obs["condition"].cat.categories:
            with staged(join_uri(uri, f"{condition}.h5ad")) as path:
                cells[cells.obs["condition"] == condition].write_h5ad(path)
        return {"input": uri, "output": output}

    @task(multiple_outputs=False)
    @fails_as_task
    def plan(prepared: dict[str, str], params: Any = None) -> list[dict[str, str | None]]:
        """The files, each with the folder for its results."""
        from airflow_provider_gca.utils.mapping import mappable
        from gca_core.annotation.cohort import plan_cohort

        files = plan_cohort(prepared["input"], prepared["output"], corrections=params["corrections"])
        planned = [file.model_dump(include={"input_uri", "output_uri", "corrections"}) for file in files]
        return mappable(planned, f"files under {prepared['input']}")

    @task(trigger_rule="all_done", multiple_outputs=False)
    @fails_as_task
    def join(prepared: dict[str, str] | None, planned: list[dict[str, str]] | None, results: Any) -> dict[str, Any]:
        """Write the summary of the cohort and its review queue, over what succeeded."""
        from airflow_provider_gca.utils.summary import write_summary
        from gca_core.annotation.cohort import CohortFile, finished_folders, write_cohort
        from gca_core.errors import DataValidationError

        if not prepared or not planned:
            raise DataValidationError("there is no plan of files to annotate; the log of the task before says why")
        files = [CohortFile(name=entry["output_uri"].rpartition("/")[2], **entry) for entry in planned]
        done = finished_folders(files, [result["uris"] for result in results or []])
        cohort = write_cohort(prepared["output"], files, done)
        metrics: dict[str, Any] = {
            "files": cohort.n_files,
            "clusters": cohort.n_clusters,
            "clusters to review": cohort.n_flagged,
            "cells": cohort.n_cells,
            "cells without a label": cohort.n_unknown,
            "labels": cohort.n_labels,
        }
        if cohort.failed:
            metrics["failed"] = ", ".join(cohort.failed)
        write_summary(system="annotation", ran_on="a cohort", metrics=metrics, files=cohort.uris)
        return cohort.model_dump(mode="json")

    @task
    @fails_as_task
    def judge(cohort: dict[str, Any], params: Any = None) -> None:
        """Fail the run where more files failed than are tolerated."""
        from gca_core.errors import DataValidationError

        if len(cohort["failed"]) > params["max_failed"]:
            names = ", ".join(cohort["failed"])
            raise DataValidationError(
                f"{len(cohort['failed'])} of {cohort['n_files']} files failed ({names}), tolerated are "
                f"{params['max_failed']}; the results of the others are written: {cohort['uris']['html']}"
            )

    prepared = prepare()
    planned = plan(prepared)
    # [START howto_operator_annotate_mapped]
    annotate = AnnotateAnnDataOperator.partial(
        task_id="annotate",
        map_index_template="{{ task.input_uri.rpartition('/')[2] }}",
        max_active_tis_per_dag=AT_A_TIME,
        cluster_key="{{ params.cluster_key }}",
        labels_key="{{ params.label_column }}",
        species="{{ params.species }}",
        tissue="{{ params.tissue }}",
        vocabulary="{{ params.vocabulary }}",
        gca_llm_conn_id="{{ params.gca_llm_conn_id }}",
        asset_alias="gca_annotated",
    ).expand_kwargs(planned)
    # [END howto_operator_annotate_mapped]
    cohort = join(prepared, planned, annotate.output)
    # where no file was annotated there is nothing to ask about
    asks = "{{ params.review and ti.xcom_pull('join')['n_clusters'] > 0 }}"
    reviewed = review_clusters(prepared["output"], asks=asks)
    cohort >> reviewed.group >> judge(cohort)


gca_annotate_cohort()
