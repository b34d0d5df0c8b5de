"""The predicted cells of a run as AnnData."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from gca_core import io
from gca_core.haystack.models import CandidateEvaluation, HaystackRun
from gca_core.inference.prediction import change
from gca_core.matrix.cells import write_cells
from gca_core.matrix.differential import NOT_REPLICATES, DifferentialExpression

KIND = "haystack"


def write_predictions(
    run: HaystackRun,
    best: CandidateEvaluation,
    iteration: int,
    cells: tuple[ad.AnnData, ad.AnnData],
    found: DifferentialExpression,
    tables: dict[str, pd.DataFrame],
    uri: str,
) -> None:
    """Predicted and control cells in one file, told apart by ``obs["haystack"]``: counts in X, and ``log1p``.

    Args:
        run: with all its iterations.
        best: the evaluation whose prediction it is.
        iteration: in which it was made.
        cells: predicted and control; their obs is written to.
        found: the predicted against the control cells, gene by gene.
        tables: further tables for ``uns``.
        uri: of the file.
    """
    predicted, control = cells
    lfc = change(predicted, control)
    predicted.obs[KIND], control.obs[KIND] = "prediction", "control"
    for side in cells:
        side.obs["cell_id"] = side.obs_names.astype(str)
        side.obs_names = [f"{name}-{kind}" for name, kind in zip(side.obs_names, side.obs[KIND], strict=True)]
    both = ad.concat([predicted, control], join="inner", merge="unique")
    is_prediction = (both.obs[KIND] == "prediction").to_numpy()
    both.obs[KIND] = pd.Categorical(both.obs[KIND], categories=["control", "prediction"])
    both.obs["cell_type_query"], both.obs["perturbation_query"] = run.query.cell_type, run.query.perturbation
    both.obs["prompt_strategy"] = np.where(is_prediction, best.candidate.strategy.value, "none")
    both.obs["iteration"] = iteration
    both.obs["grounding_score"] = np.where(is_prediction, np.nan if best.score is None else best.score, np.nan)
    both.var["gene_symbol"] = both.var_names.astype(str)
    both.var["predicted_change"] = lfc
    both.var["predicted_lfc"], both.var["predicted_pval"], both.var["is_de"] = found.lfc, found.pvalue, found.is_de
    both.var["target_gene"] = both.var_names.isin([target.gene for target in run.query.expectation.targets])
    for column in set(both.obs.select_dtypes("object").columns) - {"cell_id"}:
        both.obs[column] = both.obs[column].astype("category")
    both.uns.update(_record(run, best, found), **tables)
    with io.staged(uri) as path:
        write_cells(both, path)


def _record(run: HaystackRun, best: CandidateEvaluation, found: DifferentialExpression) -> dict[str, Any]:
    """What the file says of its run: models are JSON text, which keeps all that h5ad has no type for."""
    rows = [
        {
            "iteration": record.iteration,
            "candidate_id": e.candidate.candidate_id,
            "prompt_strategy": e.candidate.strategy.value,
            "status": e.status.value,
            "grounding_score": e.score,
            "expected": e.expected.value if e.expected else None,
            "agreement": e.agreement,
            "chosen": e.candidate.candidate_id == best.candidate.candidate_id,
            "rationale": e.candidate.rationale,
        }
        for record in run.iterations
        for e in record.evaluations
    ]
    iterations = pd.DataFrame(rows).astype(dict.fromkeys(("grounding_score", "expected", "agreement"), np.float64))
    iterations.index = iterations.index.astype(str)
    versions = {name: str(value) for name, value in run.provenance.model_dump(exclude_none=True).items()}
    versions |= {name: version(name) for name in ("anndata", "numpy")} | {"model": best.model}
    return {
        "run_id": run.run_id,
        "query": run.query.model_dump_json(),
        "config": run.config.model_dump_json(),
        "iterations": iterations,
        "versions": versions,
        "gca": {
            "candidate": best.candidate.model_dump_json(),
            "grounding": best.grounding.model_dump_json() if best.grounding else "",
            "tested_by": found.decided_by,
            "note": NOT_REPLICATES,
        },
    }
