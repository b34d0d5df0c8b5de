"""What a finished run leaves: predicted cells, report and log."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from gca_core import io
from gca_core.errors import CellRetrievalError
from gca_core.grounding.components import Link, Response, network_links
from gca_core.grounding.models import RegulatorActivity
from gca_core.grounding.regulons import read_regulons, regulator_activity
from gca_core.grounding.score import enriched_sets, score_prediction
from gca_core.haystack.agent.proposals import transcripts
from gca_core.haystack.decide import best_of, verdict
from gca_core.haystack.models import (
    Baseline,
    GateDecision,
    GeneChange,
    HaystackOutputs,
    HaystackRun,
    TerminationReason,
)
from gca_core.haystack.prompts.strategies import CandidatePool, make_candidate_pool
from gca_core.haystack.reference import describe_reference, read_measure
from gca_core.haystack.results.files import remove_earlier, result_uris
from gca_core.haystack.results.log import make_log
from gca_core.haystack.results.predictions import write_predictions
from gca_core.haystack.results.report import Findings, render_report, render_report_markdown
from gca_core.inference.prediction import change, differential_change, read_prediction
from gca_core.matrix.compare import pearson
from gca_core.matrix.differential import DifferentialExpression

if TYPE_CHECKING:
    from gca_core.haystack.context import HaystackContext

log = logging.getLogger(__name__)

TOP_GENES = 50


def write_outputs(
    run: HaystackRun, state_uri: str, decision: GateDecision, context: HaystackContext
) -> HaystackOutputs:
    """Write the results of the best iteration of all and return where they lie."""
    best = best_of(run.evaluations())
    iteration = next((r.iteration for r in run.iterations if best in r.evaluations), None) if best else None
    uris = result_uris(run.results_uri, run.run_id)
    found: DifferentialExpression | None = None
    links: list[Link] = []
    regulators: list[RegulatorActivity] = []
    predicted = pd.Series(dtype=np.float64)
    baseline = Baseline(available=False, description="no prediction to compare with")
    if best is not None and iteration is not None and best.prediction_uri and best.query_uri:
        cells = read_prediction(best.prediction_uri, best.query_uri)
        limits = run.config.grounding
        predicted = pd.Series(change(*cells), index=cells[0].var_names.astype(str))
        found = differential_change(*cells, min_lfc=limits.min_lfc, max_padj=limits.max_padj)
        baseline = make_baseline(run, predicted, context)
        tables = {"enrichment_results": enriched_sets(found, limits)}
        response = Response.of(found.lfc, found.genes, found.is_de)
        links = network_links(response, run.query.expectation, context.knowledge, limits)
        if limits.regulons_uri is not None:
            regulators = regulator_activity(found, read_regulons(limits.regulons_uri), limits.min_set_genes)
            tables["transcription_factors"] = pd.DataFrame([regulator.model_dump() for regulator in regulators])
        write_predictions(run, best, iteration, cells, found, tables, uris["h5ad"])
    reference = describe_reference(run.query, context, dict(zip(predicted.index, predicted.tolist(), strict=True)))
    reference = reference.model_copy(update={"selection": read_measure(run).selection})
    found_verdict, verdict_detail = verdict(run)
    outputs = HaystackOutputs(
        run_id=run.run_id,
        h5ad_uri=uris["h5ad"] if found else None,
        html_uri=uris["html"],
        markdown_uri=uris["markdown"],
        json_uri=uris["json"],
        state_uri=state_uri,
        best_score=best.score if best else None,
        best_iteration=iteration,
        best_candidate_id=best.candidate.candidate_id if best else None,
        termination_reason=decision.reason or TerminationReason.MAX_ITERATIONS,
        n_iterations=len(run.iterations),
        n_evaluations=len(run.evaluations()),
        status="completed",
        verdict=found_verdict,
        verdict_detail=verdict_detail,
        expected=best.expected if best else None,
        forecast=reference.forecast,
        measured=run.measured,
    )
    detail = decision.detail if decision.reason else "the number of built iterations is reached"
    findings = Findings(run, best, outputs, detail, baseline, reference, found, links, regulators)
    page, text = render_report(findings), render_report_markdown(findings)
    log_data = make_log(
        run=run,
        outputs=outputs,
        termination_detail=detail,
        baseline=baseline,
        reference=reference,
        transcription_factors=[regulator.model_dump() for regulator in regulators],
    )
    # what a model says is its own, however alike the runs are
    log_data["transcript"] = [report.model_dump() for report in transcripts(run, context.language_model)]
    io.write_text(outputs.html_uri, page)
    io.write_text(outputs.markdown_uri, text)
    io.write_json(outputs.json_uri, log_data)
    remove_earlier(run.results_uri, (outputs.h5ad_uri, outputs.html_uri, outputs.markdown_uri, outputs.json_uri))
    log.info("report %s", outputs.html_uri)
    return outputs


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
