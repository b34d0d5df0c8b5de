"""Fill the atlas that HAYSTACK takes its prompts from, one mapped task per file.

With no parameter set it takes the bundled Kang 2018 cells (PBMC, interferon beta against control). For your own
files give `files`, a list of objects with the arguments of `IngestAtlasOperator`: `input_uri`, `dataset`, and
either `preset` or the columns. A file that is in the atlas already changes nothing; one that fails leaves the
atlas as it was, and the others are taken all the same.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import Param, dag, task

from airflow_provider_gca.operators.atlas import IngestAtlasOperator
from airflow_provider_gca.utils.failures import fails_as_task


@dag(
    dag_id="gca_atlas_ingest",
    schedule=None,
    catchup=False,
    tags=["gca", "atlas"],
    doc_md=__doc__,
    params={
        "files": Param(
            [],
            type="array",
            items={
                "type": "object",
                "required": ["input_uri", "dataset"],
                "properties": {
                    "input_uri": {"type": "string", "minLength": 1},
                    "dataset": {"type": "string", "minLength": 1},
                    "preset": {"enum": ["parse_pbmc", "openproblems", "tabula_sapiens", "cellxgene_census"]},
                },
            },
            description="Files to take, each with the arguments of IngestAtlasOperator; "
            "empty takes the cells that ship with the package.",
        ),
        "search": Param(
            "interferon beta in monocytes", type="string", minLength=1, description="What to look for at the end."
        ),
    },
)
def gca_atlas_ingest() -> None:
    @task(multiple_outputs=False)
    @fails_as_task
    def choose(params: Any = None) -> list[dict[str, Any]]:
        """Say which files to take, and which of their columns."""
        from airflow_provider_gca.utils.mapping import mappable
        from gca_core.datasets import kang2018_mini_path

        demo = {
            "input_uri": kang2018_mini_path().as_uri(),
            "dataset": "kang2018-mini",
            "perturbation_column": "condition",
            "control_value": "ctrl",
            "perturbation_names": {"stim": "interferon beta"},
            "cell_type_column": "cell_type",
            "cell_type_id_column": "cell_type_ontology_id",
        }
        return mappable(params["files"] or [demo], "files")

    @task(multiple_outputs=False, trigger_rule="none_failed")
    @fails_as_task
    def check(reports: list[dict[str, Any]], params: Any = None) -> dict[str, Any]:
        """Search what was taken, and print what the atlas holds."""
        from airflow_provider_gca.hooks.atlas import AtlasHook
        from airflow_provider_gca.utils.summary import write_summary
        from gca_core.llm.embeddings import open_embeddings

        atlas = AtlasHook(role="agent").get_conn()
        found = atlas.semantic(open_embeddings().embed_query(params["search"]), limit=1)
        nearest = f"{found[0].label} ({found[0].id}, similarity {found[0].similarity:.2f})" if found else "nothing"
        taken = list(reports)
        return write_summary(
            system="atlas",
            ran_on="PostgreSQL, hashed text embeddings",
            metrics={
                "files": len(taken),
                "already there": sum(report["unchanged"] for report in taken),
                "cells": sum(report["n_cells"] for report in taken),
                "cells left out": sum(report["n_cells_read"] - report["n_cells"] for report in taken),
                "groups": sum(report["n_groups"] for report in taken),
                "perturbed groups without a control": sum(report["n_groups_without_control"] for report in taken),
                f"nearest to {params['search']!r}": nearest,
            },
            files={report["dataset"]: report["store_uri"] for report in taken},
        )

    # [START howto_operator_ingest_atlas_mapped]
    ingest = IngestAtlasOperator.partial(task_id="ingest").expand_kwargs(choose())
    # [END howto_operator_ingest_atlas_mapped]
    check(ingest.output)


gca_atlas_ingest()
