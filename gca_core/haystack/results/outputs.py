"""What a finished run leaves: AnnData, HTML report, figure and JSON log."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import numpy.typing as npt
import pandas as pd

from gca_core import io
from gca_core.errors import CellRetrievalError
from gca_core.grounding.score import enriched_sets, score_prediction
from gca_core.haystack.decide import best_of
from gca_core.haystack.models import (
    Baseline,
    CandidateEvaluation,
    GateDecision,
    GeneChange,
    HaystackOutputs,
    HaystackRun,
    ReferenceResponse,
    TerminationReason,
)
from gca_core.haystack.prompts.strategies import CandidatePool, make_candidate_pool
from gca_core.haystack.reference import describe_reference
from gca_core.haystack.results.report import VolcanoPoint, draw_figure, render_report, volcano_points
from gca_core.inference.prediction import change, differential_change, read_prediction
from gca_core.matrix.compare import pearson
from gca_core.matrix.differential import NOT_REPLICATES, DifferentialExpression

if TYPE_CHECKING:
    from gca_core.haystack.context import HaystackContext

log = logging.getLogger(__name__)

TOP_GENES = 50
RESULT = "run.json"
KIND = "haystack"


def write_outputs(
    run: HaystackRun, state_uri: str, decision: GateDecision, context: HaystackContext
) -> HaystackOutputs:
    """Write the results of the best iteration of all and return where they lie."""
    best = best_of(run.evaluations())
    iteration = next((r.iteration for r in run.iterations if best in r.evaluations), None) if best else None
    reason = decision.reason or TerminationReason.MAX_ITERATIONS
    h5ad_uri = figure_uri = None
    image = b""
    volcano: list[VolcanoPoint] = []
    predicted = pd.Series(dtype=np.float64)
    baseline = Baseline(available=False, description="no prediction to compare with")
    if best is not None and best.prediction_uri and best.query_uri:
        cells = read_prediction(best.prediction_uri, best.query_uri)
        predicted = pd.Series(change(*cells), index=cells[0].var_names.astype(str))
        baseline = make_baseline(run, predicted, context)
        h5ad_uri = io.join_uri(run.results_uri, "result.h5ad")
        volcano = volcano_points(write_anndata(run, best, cells, h5ad_uri))
        image = draw_figure(run, best)
        figure_uri = io.write_bytes(io.join_uri(run.results_uri, "figure.png"), image)
    reference = describe_reference(run.query, context, dict(zip(predicted.index, predicted.tolist(), strict=True)))
    outputs = HaystackOutputs(
        run_id=run.run_id,
        h5ad_uri=h5ad_uri,
        html_uri=io.join_uri(run.results_uri, "report.html"),
        json_uri=io.join_uri(run.results_uri, RESULT),
        figure_uri=figure_uri,
        state_uri=state_uri,
        best_score=best.score if best else None,
        best_iteration=iteration,
        best_candidate_id=best.candidate.candidate_id if best else None,
        termination_reason=reason,
        n_iterations=len(run.iterations),
        n_evaluations=len(run.evaluations()),
        status="succeeded",
        forecast=reference.forecast,
        measured=run.measured,
    )
    detail = decision.detail if decision.reason else "the number of built iterations is reached"
    io.write_text(outputs.html_uri, render_report(run, best, outputs, detail, baseline, reference, image, volcano))
    io.write_json(outputs.json_uri, _log(run, outputs, detail, baseline, reference))
    log.info("report %s", outputs.html_uri)
    return outputs


def write_anndata(
    run: HaystackRun, best: CandidateEvaluation, cells: tuple[ad.AnnData, ad.AnnData], uri: str
) -> DifferentialExpression:
    """Predicted and control cells in one file, told apart by ``obs["haystack"]``: counts in X, and ``log1p``.

    Args:
        cells: predicted and control; their obs is written to.

    Returns:
        The predicted against the control cells, gene by gene.
    """
    predicted, control = cells
    lfc = change(predicted, control)
    config = run.config.grounding
    found = differential_change(predicted, control, min_lfc=config.min_lfc, max_padj=config.max_padj)
    predicted.obs[KIND], control.obs[KIND] = "prediction", "control"
    for side in cells:
        side.obs_names = [f"{name}-{kind}" for name, kind in zip(side.obs_names, side.obs[KIND], strict=True)]
    both = ad.concat([predicted, control], join="inner", merge="unique")
    both.obs[KIND] = pd.Categorical(both.obs[KIND], categories=["control", "prediction"])
    both.var["predicted_change"] = lfc
    both.var["gene_symbol"] = both.var_names.astype(str)
    both.var["predicted_lfc"], both.var["predicted_pval"], both.var["is_de"] = found.lfc, found.pvalue, found.is_de
    both.var["target_gene"] = both.var_names.isin([target.gene for target in run.query.expectation.targets])
    both.uns["gca"] = {
        "run_id": run.run_id,
        "question": run.query.question,
        "query": run.query.model_dump_json(),
        "candidate": best.candidate.model_dump_json(),
        "grounding": best.grounding.model_dump_json() if best.grounding else "",
        "provenance": run.provenance.model_dump_json(),
        "backend": best.backend,
        "model": best.model,
        "tested_by": found.decided_by,
        "note": NOT_REPLICATES,
    }
    both.uns["enrichment_results"] = enriched_sets(found, config)
    for column in both.obs.select_dtypes("object").columns:
        both.obs[column] = both.obs[column].astype("category")
    with io.staged(uri) as path:
        both.write_h5ad(path, compression="gzip")
    return found


def make_baseline(run: HaystackRun, predicted: pd.Series, context: HaystackContext) -> Baseline:
    """The mean shift of all other cell types under the asked perturbation, scored the same way.

    Args:
        predicted: the predicted change by gene, to compare it with.
    """
    try:
        pool = make_candidate_pool(run.query, run.config, context)
    except CellRetrievalError as error:
        return Baseline(available=False, description=str(error))
    shift = mean_shift(pool, context)
    if shift is None:
        return Baseline(available=False, description="the atlas has no other type under this perturbation")
    lfc, genes, n_groups = shift
    place = pd.Index(genes).get_indexer(predicted.index)
    shared = place >= 0
    ours, theirs = predicted.to_numpy()[shared], lfc[place[shared]]
    names = predicted.index[shared].tolist()
    order = np.argsort(-np.abs(theirs), kind="stable")[:TOP_GENES]
    return Baseline(
        available=True,
        description="mean shift of all other cell types under the same perturbation, without any choice",
        n_groups=n_groups,
        grounding=score_prediction(theirs, names, run.query.expectation, context.knowledge, run.config.grounding),
        pearson_with_prediction=round(pearson(ours, theirs), 4),
        top_genes=tuple(GeneChange(gene=names[i], change=round(float(theirs[i]), 6)) for i in order),
    )


def mean_shift(pool: CandidatePool, context: HaystackContext) -> tuple[npt.NDArray[np.float64], list[str], int] | None:
    """Mean over other types of the mean over groups of (perturbed - control); None where there is none."""
    types = [t for t in pool.same if pool.distances[t] > 0]
    groups = [g for t in types for g in pool.same[t]]
    if not groups:
        return None
    atlas = context.require_atlas()
    treated, genes = atlas.group_means([g.group_id for g in groups])
    untreated, _ = atlas.group_means([g.control_group_id or "" for g in groups])
    changes = treated - untreated
    labels = np.array([g.cell_type_id for g in groups])
    per_type = np.array([changes[labels == t].mean(axis=0) for t in types])
    return per_type.mean(axis=0), genes, len(groups)


def _log(
    run: HaystackRun, outputs: HaystackOutputs, detail: str, baseline: Baseline, reference: ReferenceResponse
) -> dict[str, Any]:
    return {
        "outputs": outputs.model_dump(mode="json"),
        "termination_detail": detail,
        "baseline": baseline.model_dump(mode="json"),
        "reference": reference.model_dump(mode="json"),
        "run": json.loads(run.model_dump_json()),
    }
