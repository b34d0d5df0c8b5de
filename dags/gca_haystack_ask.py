"""Ask an atlas that is there how a cell type responds to a perturbation: the DAG that the page in Airflow starts.

It holds nothing but the loop. Fill the atlas before, with the DAG ``gca_atlas_ingest`` or ``gca atlas ingest``.
Jobs run on the worker; or, where the variable ``GCA_HAYSTACK_BATCH`` of the DAG processor and the workers says where
and how (JSON, the fields of ``gca_core.batch.BatchConfig``), on Google Batch, with the results in a bucket.
``GCA_HAYSTACK_CONFIG`` (JSON, fields of ``gca_core.haystack.models.IterationConfig``) says what people don't choose,
such as the backend and its weights; ``GCA_HAYSTACK_FEEDBACK_MINUTES``, how long a person who wants to be asked has for
an answer, an hour where it is not set.
"""

from __future__ import annotations

import json
import os
from datetime import timedelta

from airflow.sdk import Param, dag

from airflow_provider_gca.hooks.llm import LlmHook
from airflow_provider_gca.notifications.haystack import HaystackNotifier
from airflow_provider_gca.task_groups.haystack import MAX_BOUND, haystack_loop

BATCH = json.loads(os.environ.get("GCA_HAYSTACK_BATCH") or "null")
FEEDBACK = timedelta(minutes=float(os.environ.get("GCA_HAYSTACK_FEEDBACK_MINUTES") or 60))
CONFIG = json.loads(os.environ.get("GCA_HAYSTACK_CONFIG") or "{}")


@dag(
    dag_id="gca_haystack_ask",
    schedule=None,
    catchup=False,
    # a worker that dies takes no run with it
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    tags=["gca", "haystack"],
    doc_md=__doc__,
    params={
        "question": Param(
            None,
            type=["string", "null"],
            minLength=10,
            maxLength=2000,
            description="One human cell type and one perturbation, such as: How would B cells respond to IL-4? "
            "Leave it empty to name them below.",
        ),
        "cell_type": Param(
            None, type=["string", "null"], maxLength=200, description="Name or id of the Cell Ontology."
        ),
        "perturbation": Param(
            None, type=["string", "null"], maxLength=200, description="A cytokine, drug, stimulus or gene, by name."
        ),
        "kind": Param(
            None,
            type=["string", "null"],
            maxLength=100,
            description="What is done: knockout, CRISPRi, cytokine, drug, ...; by the name where it is empty.",
        ),
        "dataset": Param(
            None, type=["string", "null"], maxLength=200, description="A dataset of the atlas; all where it is empty."
        ),
        "max_iterations": Param(5, type="integer", minimum=1, maximum=MAX_BOUND, description="Iterations at most."),
        "score_threshold": Param(
            7.0, type="number", minimum=1, maximum=10, description="A grounding score that ends the run early."
        ),
        "seed": Param(0, type="integer", minimum=0, description="Seed of every random choice."),
        "budget_seconds": Param(
            None,
            type=["number", "null"],
            exclusiveMinimum=0,
            description="Seconds of inference at most over the whole run.",
        ),
        "predict_anyway": Param(False, type="boolean", description="Predict also what the atlas holds measured."),
        "gca_llm_conn_id": Param(
            LlmHook.default_conn_name,
            type=["string", "null"],
            maxLength=200,
            description="Connection of a language model that reads and proposes beside the rules; where the default "
            "does not exist, GCA_LLM decides; none where it is empty.",
        ),
        "llm_model": Param(
            None,
            type=["string", "null"],
            maxLength=200,
            description="Another model of that connection's provider.",
        ),
        "feedback": Param(
            False, type="boolean", description="Ask a person after each iteration, under Airflow's required actions."
        ),
        "notify": Param(
            None,
            type=["string", "null"],
            maxLength=1000,
            description="Addresses that are told how the run ended, by the connection smtp_default.",
        ),
    },
)
def gca_haystack_ask() -> None:
    # [START howto_task_group_haystack_ask]
    haystack_loop(
        question="{{ params.question or '' }}",
        cell_type="{{ params.cell_type or '' }}",
        perturbation="{{ params.perturbation or '' }}",
        kind="{{ params.kind or '' }}",
        dataset="{{ params.dataset or '' }}",
        iterations=MAX_BOUND,
        max_iterations="{{ params.max_iterations }}",
        config={
            **CONFIG,
            "score_threshold": "{{ params.score_threshold }}",
            "seed": "{{ params.seed }}",
            "budget_seconds": "{{ params.budget_seconds or '' }}",
            "predict_anyway": "{{ params.predict_anyway }}",
        },
        gca_llm_conn_id="{{ params.gca_llm_conn_id or '' }}",
        llm_model="{{ params.llm_model or '' }}",
        feedback=FEEDBACK,
        asks="{{ params.feedback }}",
        execution="batch" if BATCH else "local",
        batch=BATCH,
        gcp_conn_id="google_cloud_default",
        notifiers=HaystackNotifier(to="{{ params.notify }}"),
    )
    # [END howto_task_group_haystack_ask]


gca_haystack_ask()
