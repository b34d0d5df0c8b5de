"""Label the clusters of an AnnData file, and say how well that agrees with known labels.

With no parameter set it takes the 700 PBMC that come with scanpy and works offline; a model is asked where
`gca_llm_conn_id` names a connection. The results are an h5ad with the labels in `obs`, JSON, CSV, an HTML report and a
labelled UMAP; `summary` prints the agreement at Cell Ontology level. The annotated file is an event under the asset
alias `gca_annotated`, with the numbers in its metadata.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import Param, dag, task

from airflow_provider_gca.operators.annotation import AnnotateAnnDataOperator
from airflow_provider_gca.utils.failures import fails_as_task

OPTIONAL = ["null", "string"]


@dag(
    dag_id="gca_annotate",
    schedule=None,
    catchup=False,
    tags=["gca", "annotation"],
    doc_md=__doc__,
    params={
        "input_uri": Param(
            None,
            type=OPTIONAL,
            description="An h5ad, zarr or loom file; empty takes the PBMC that come with scanpy.",
        ),
        "cluster_key": Param(
            None, type=OPTIONAL, description="Column of obs with the clusters; empty clusters the cells first."
        ),
        "label_column": Param(
            None, type=OPTIONAL, description="Column of obs with known labels to compare with, for your own file."
        ),
        "species": Param("human", type="string", description="Species of the cells."),
        "tissue": Param("blood", type=OPTIONAL, description="Tissue of the cells, where known."),
        "vocabulary": Param(
            None,
            type=OPTIONAL,
            description="Names to write the labels in, too: broad, or a table with label and ontology_id.",
        ),
        "gca_llm_conn_id": Param(
            None, type=OPTIONAL, description="Connection of the model to ask; empty works offline and calls nothing."
        ),
    },
)
def gca_annotate() -> None:
    @task(multiple_outputs=True)
    @fails_as_task
    def prepare(dag_run: Any = None, params: Any = None) -> dict[str, str | None]:
        """Say what to annotate, and where the results go."""
        from airflow_provider_gca.utils.summary import results_folder
        from gca_core.datasets import pbmc68k_reduced
        from gca_core.io import join_uri, staged

        folder = results_folder(dag_run.dag_id, dag_run.run_id)
        if params["input_uri"]:
            return {"input": params["input_uri"], "output": folder, "labels": params["label_column"]}
        uri = join_uri(folder, "pbmc68k_reduced.h5ad")
        with staged(uri) as path:
            pbmc68k_reduced().write_h5ad(path)
        return {"input": uri, "output": folder, "labels": "bulk_labels"}

    @task(multiple_outputs=False)
    @fails_as_task
    def summary(result: dict[str, Any]) -> dict[str, Any]:
        """Write and print what came out."""
        from airflow_provider_gca.utils.summary import write_summary

        metrics = {"clusters": result["n_clusters"], "cells": result["n_cells"]}
        for name, value in (result["agreement"] or {}).items():
            if isinstance(value, float):
                metrics[f"agreement, {name.replace('_', ' ')}"] = value
        annotator = result["model"] or result["annotator"]
        database = f"{annotator} annotator, marker table {result['marker_database_sha256'][:12]}"
        return write_summary(system="annotation", ran_on=database, metrics=metrics, files=result["uris"])

    prepared = prepare()
    # [START howto_operator_annotate]
    annotate = AnnotateAnnDataOperator(
        task_id="annotate",
        input_uri=prepared["input"],
        output_uri=prepared["output"],
        cluster_key="{{ params.cluster_key }}",
        labels_key=prepared["labels"],
        species="{{ params.species }}",
        tissue="{{ params.tissue }}",
        vocabulary="{{ params.vocabulary }}",
        gca_llm_conn_id="{{ params.gca_llm_conn_id }}",
        asset_alias="gca_annotated",
    )
    # [END howto_operator_annotate]
    summary(annotate.output)


gca_annotate()
