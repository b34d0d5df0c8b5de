"""Train a small VAE on counts and say how well its latent space tells cell types apart.

With no parameter set it takes the 700 PBMC that come with scanpy, whose counts are recovered from log-normalised
values, and scores six coarse types beside PCA and plain genes.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import Param, dag, task

from airflow_provider_gca.failures import fails_as_task
from airflow_provider_gca.operators.latent import TrainVAEOperator

OPTIONAL = ["null", "string"]
COARSE_TYPES = {
    "CD34+": "CD34+",
    "CD4+/CD25 T Reg": "T",
    "CD4+/CD45RA+/CD25- Naive T": "T",
    "CD4+/CD45RO+ Memory": "T",
    "CD8+ Cytotoxic T": "T",
    "CD8+/CD45RA+ Naive Cytotoxic": "T",
    "CD19+ B": "B",
    "CD56+ NK": "NK",
    "CD14+ Monocyte": "monocyte",
    "Dendritic": "dendritic",
}


@dag(
    dag_id="gca_latent",
    schedule=None,
    catchup=False,
    tags=["gca", "latent"],
    doc_md=__doc__,
    params={
        "epochs": Param(200, type="integer", minimum=1, description="Passes over the training cells at most."),
        "latent_dim": Param(10, type="integer", minimum=1, maximum=512, description="Size of the latent space."),
        "seed": Param(0, type="integer", minimum=0, description="Seed of every random choice."),
    },
)
def gca_latent() -> None:
    @task(multiple_outputs=True)
    @fails_as_task
    def prepare(dag_run: Any = None) -> dict[str, str]:
        """Write the data that come with scanpy as a file, and say where the results go."""
        from airflow_provider_gca.summary import results_folder
        from gca_core.datasets import pbmc68k_reduced
        from gca_core.io import join_uri, staged

        folder = results_folder(dag_run.dag_id, dag_run.run_id)
        uri = join_uri(folder, "pbmc68k_reduced.h5ad")
        with staged(uri) as path:
            pbmc68k_reduced().write_h5ad(path)
        return {"input": uri, "output": folder}

    @task(multiple_outputs=False)
    @fails_as_task
    def summary(result: dict[str, Any]) -> dict[str, Any]:
        """Write and print what came out."""
        from airflow_provider_gca.summary import write_summary

        suffix = "_macro_f1"
        figures = {
            f"macro-F1 {name.removesuffix(suffix).replace('_', ' ')}": value
            for name, value in result["metrics"].items()
            if name.endswith(suffix)
        }
        ran_on = f"{result['model']} on {result['n_cells']} cells and {result['n_genes']} genes"
        return write_summary(system="latent", ran_on=ran_on, figures=figures, files=result["uris"])

    prepared = prepare()
    # [START howto_operator_train_vae]
    train = TrainVAEOperator(
        task_id="train",
        input_uri=prepared["input"],
        output_dir=prepared["output"],
        recover_counts=True,
        label_key="bulk_labels",
        label_map=COARSE_TYPES,
        options={
            "counts_layer": "raw",
            "epochs": "{{ params.epochs }}",
            "latent_dim": "{{ params.latent_dim }}",
            "seed": "{{ params.seed }}",
        },
    )
    # [END howto_operator_train_vae]
    summary(train.output)


gca_latent()
