"""Train a small VAE on counts, score its latent space, and label new cells with it if the scores allow.

With no parameter set it takes the 700 PBMC that come with scanpy, whose counts are recovered from log-normalised
values: 600 train, and the scores of six coarse types stand beside those of PCA and plain genes. If the kNN's macro-F1
reaches the threshold, the model labels the other 100 cells, whose own labels only say how well it did.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import Param, dag, task

from airflow_provider_gca.operators.latent import TrainVAEOperator, TransferLabelsOperator
from airflow_provider_gca.utils.failures import fails_as_task

# every seventh cell is new
NEW_CELLS = 7
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
        "min_macro_f1": Param(
            0.8, type="number", minimum=0, maximum=1, description="The kNN's macro-F1 that the transfer needs."
        ),
        "min_probability": Param(
            0.5, type="number", minimum=0, maximum=1, description="Share of votes that a transferred label needs."
        ),
    },
)
def gca_latent() -> None:
    @task(multiple_outputs=True)
    @fails_as_task
    def prepare(dag_run: Any = None) -> dict[str, str]:
        """Write the data that come with scanpy as two files, and say where the results go."""
        import numpy as np

        from airflow_provider_gca.utils.summary import results_folder
        from gca_core.datasets import pbmc68k_reduced
        from gca_core.io import join_uri, staged

        folder = results_folder(dag_run.dag_id, dag_run.run_id)
        cells = pbmc68k_reduced()
        new = np.arange(cells.n_obs) % NEW_CELLS == 0
        uris = {name: join_uri(folder, f"{name}.h5ad") for name in ("training", "new")}
        for uri, chosen in zip(uris.values(), (~new, new), strict=True):
            with staged(uri) as path:
                cells[chosen].write_h5ad(path)
        return {**uris, "output": folder, "labels": join_uri(folder, "transfer")}

    @task.short_circuit(ignore_downstream_trigger_rules=False)
    @fails_as_task
    def good_enough(result: dict[str, Any], params: dict[str, Any] | None = None) -> bool:
        """Whether the latent space tells the types apart well enough to label other cells."""
        return bool(result["metrics"]["latent_knn_macro_f1"] >= (params or {})["min_macro_f1"])

    @task(trigger_rule="none_failed", multiple_outputs=False)
    @fails_as_task
    def summary(result: dict[str, Any], transferred: dict[str, Any] | None) -> dict[str, Any]:
        """Write and print what came out."""
        from airflow_provider_gca.utils.summary import write_summary

        suffix = "_macro_f1"
        metrics: dict[str, Any] = {
            f"macro-F1 {name.removesuffix(suffix).replace('_', ' ')}": value
            for name, value in result["metrics"].items()
            if name.endswith(suffix)
        }
        files = dict(result["uris"])
        if transferred:
            metrics["new cells labelled"] = f"{transferred['n_labelled']} of {transferred['n_cells']}"
            metrics["new cells macro-F1"] = transferred["metrics"]["macro_f1"]
            files["labels"] = transferred["uris"]["labels"]
        ran_on = f"{result['model']} on {result['n_cells']} cells and {result['n_genes']} genes"
        return write_summary(system="latent", ran_on=ran_on, metrics=metrics, files=files)

    prepared = prepare()
    # [START howto_operator_train_vae]
    train = TrainVAEOperator(
        task_id="train",
        input_uri=prepared["training"],
        output_uri=prepared["output"],
        recover_counts=True,
        labels_key="bulk_labels",
        label_map=COARSE_TYPES,
        counts_layer="raw",
        epochs="{{ params.epochs }}",
        latent_dim="{{ params.latent_dim }}",
        seed="{{ params.seed }}",
        asset_alias="gca_latent_model",
    )
    # [END howto_operator_train_vae]
    # [START howto_operator_transfer_labels]
    transfer = TransferLabelsOperator(
        task_id="transfer",
        input_uri=prepared["new"],
        run_uri=prepared["output"],
        output_uri=prepared["labels"],
        min_probability="{{ params.min_probability }}",
        recover_counts=True,
        labels_key="bulk_labels",
        label_map=COARSE_TYPES,
        counts_layer="raw",
    )
    # [END howto_operator_transfer_labels]
    train >> good_enough(train.output) >> transfer
    summary(train.output, transfer.output)


gca_latent()
