"""Predict how a cell type responds to a perturbation, on an atlas whose true answer was put aside.

The atlas is built from the bundled Kang 2018 cells, without the stimulated cells of the type that is asked about.
The loop proposes prompts, predicts, scores and refines within three unrolled, gated iterations; at the end the
prediction is compared with the cells that were put aside, which nothing before had seen.

Inference runs on the worker; or, where the variable ``GCA_HAYSTACK_BATCH`` of the DAG processor and the workers says
where and how (JSON, the fields of ``gca_core.batch.BatchConfig``), on Google Batch, with the results in a bucket.
With ``GCA_HAYSTACK_FEEDBACK_MINUTES`` a person is asked after each iteration, and has so long to answer.
"""

from __future__ import annotations

import json
import os
from datetime import timedelta
from typing import Any

from airflow.sdk import Param, dag, task

from airflow_provider_gca.notifications.haystack import HaystackNotifier
from airflow_provider_gca.operators.atlas import IngestAtlasOperator
from airflow_provider_gca.task_groups.haystack import haystack_loop
from airflow_provider_gca.utils.failures import fails_as_task

ITERATIONS = 3
PERTURBATION = "interferon beta"
FEEDBACK = os.environ.get("GCA_HAYSTACK_FEEDBACK_MINUTES")
BATCH = json.loads(os.environ.get("GCA_HAYSTACK_BATCH") or "null")


@dag(
    dag_id="gca_haystack",
    schedule=None,
    catchup=False,
    tags=["gca", "haystack"],
    doc_md=__doc__,
    params={
        "question": Param(
            "How would CD14+ monocytes respond to interferon beta?",
            type=["string", "null"],
            description="What to predict; the stimulated cells of the type it names are put aside. "
            "Leave it empty to name cell type and perturbation below.",
        ),
        "cell_type": Param(None, type=["string", "null"], description="Name or id of the Cell Ontology."),
        "perturbation": Param(None, type=["string", "null"], description="Name of the perturbation."),
        "max_iterations": Param(
            ITERATIONS, type="integer", minimum=1, maximum=ITERATIONS, description="Iterations of this run at most."
        ),
        "score_threshold": Param(
            9.0, type="number", minimum=1, maximum=10, description="A grounding score that ends the run early."
        ),
        "ontology_distance": Param(
            4,
            type="integer",
            minimum=0,
            description="Steps in the Cell Ontology within which other types may prompt at first; "
            "the bundled data have eight types, so it is wider than the default of 2.",
        ),
        "notify": Param(
            None,
            type=["string", "null"],
            description="Addresses that are told how the run ended, by the connection smtp_default.",
        ),
        "seed": Param(0, type="integer", minimum=0, description="Seed of every random choice."),
    },
)
def gca_haystack() -> None:
    @task(multiple_outputs=True)
    @fails_as_task
    def prepare(dag_run: Any = None, params: Any = None) -> dict[str, str]:
        """Put the true answer aside, and write the rest as the atlas's source."""
        from airflow_provider_gca.utils.summary import results_folder
        from gca_core.haystack.context import open_knowledge
        from gca_core.haystack.demo.kang2018 import write_demo_files
        from gca_core.haystack.understand import understand
        from gca_core.io import join_uri

        folder = results_folder(dag_run.dag_id, dag_run.run_id)
        asked = {name: params[name] or None for name in ("question", "cell_type", "perturbation")}
        files = write_demo_files(understand(context=open_knowledge(), **asked), folder)
        return {**files.model_dump(), "run": join_uri(folder, "run")}

    @task(multiple_outputs=False)
    @fails_as_task
    def compare(outputs: dict[str, Any], prepared: dict[str, str]) -> dict[str, float]:
        """Hold the prediction against the cells that were put aside."""
        from gca_core.haystack.demo.kang2018 import DemoFiles

        comparison = DemoFiles.model_validate(prepared).compare(outputs["h5ad_uri"])
        return comparison.model_dump(mode="json")

    @task(multiple_outputs=False)
    @fails_as_task
    def summary(outputs: dict[str, Any], comparison: dict[str, float], report: dict[str, Any]) -> dict[str, Any]:
        """Write and print what came out."""
        from airflow_provider_gca.utils.summary import write_summary

        return write_summary(
            system="haystack",
            ran_on=f"mean shift, atlas of {report['n_cells']} cells in PostgreSQL",
            metrics={
                "grounding score": outputs["best_score"],
                "best iteration, from 0": outputs["best_iteration"],
                "iterations": outputs["n_iterations"],
                "ended by": outputs["termination_reason"],
                "Pearson of log fold change": comparison["pearson_lfc"],
                "overlap of the 50 largest changes": comparison["de_overlap_50"],
                "cells put aside": comparison["n_true_cells"],
            },
            files={name.removesuffix("_uri"): outputs[name] for name in outputs if name.endswith("_uri")},
        )

    prepared = prepare()
    # [START howto_operator_ingest_atlas]
    ingest = IngestAtlasOperator(
        task_id="ingest",
        input_uri=prepared["atlas_uri"],
        dataset=prepared["dataset"],
        perturbation_column="condition",
        control_value="ctrl",
        perturbation_names={"stim": PERTURBATION},
        cell_type_column="cell_type",
        cell_type_id_column="cell_type_ontology_id",
    )
    # [END howto_operator_ingest_atlas]
    # [START howto_task_group_haystack]
    loop = haystack_loop(
        question="{{ params.question }}",
        cell_type="{{ params.cell_type }}",
        perturbation="{{ params.perturbation }}",
        iterations=ITERATIONS,
        max_iterations="{{ params.max_iterations }}",
        dataset=prepared["dataset"],
        results_uri=prepared["run"],
        config={
            "score_threshold": "{{ params.score_threshold }}",
            "ontology_distance": "{{ params.ontology_distance }}",
            "seed": "{{ params.seed }}",
        },
        execution="batch" if BATCH else "local",
        batch=BATCH,
        gcp_conn_id="google_cloud_default",
        asset_alias="gca_predicted",
        feedback=timedelta(minutes=float(FEEDBACK)) if FEEDBACK else None,
        notifiers=HaystackNotifier(to="{{ params.notify }}"),
    )
    # [END howto_task_group_haystack]
    ingest >> loop.group
    comparison = compare(loop.outputs, prepared)
    summary(loop.outputs, comparison, ingest.output)


gca_haystack()
