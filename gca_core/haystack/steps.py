"""The steps of a run. Each takes and gives values that serialise to JSON.

The plain loop of :mod:`gca_core.haystack.run` and the Airflow task groups call these same functions:

``understand`` -> ``start_run`` -> per iteration ``gate``, ``propose``, inference of the jobs, ``evaluate``
of each result, ``record`` -> ``finalize``. The state of a run is a chain of ``state-<i>.json``; a step
reads the state it is given and nothing newer.
"""

import logging
from collections.abc import Sequence

import numpy as np

from gca_core import io
from gca_core.errors import CellRetrievalError, EvaluationError, InferenceError
from gca_core.grounding.enrichment import read_gmt
from gca_core.grounding.knowledge import GroundingKnowledge
from gca_core.grounding.literature import search_literature
from gca_core.grounding.models import GroundingScore, GroundingStatus, Literature
from gca_core.grounding.regulons import read_regulons
from gca_core.grounding.score import score_response
from gca_core.haystack.agent.proposals import ModelAnswer, ask_agents, drafts_of, summaries, transcript_uri
from gca_core.haystack.context import HaystackContext
from gca_core.haystack.decide import best_of, decide
from gca_core.haystack.models import (
    EMPTY_ATLAS,
    CandidateEvaluation,
    EvaluationStatus,
    Feedback,
    GateDecision,
    GeneChange,
    HaystackOutputs,
    HaystackRun,
    IterationConfig,
    IterationRecord,
    PromptCandidate,
    Proposal,
    ReferenceChange,
    StructuredQuery,
)
from gca_core.haystack.prompts.from_reference import Guide, first_drafts, guide_for
from gca_core.haystack.prompts.materialise import query_uri, write_candidate, write_jobs, write_query
from gca_core.haystack.prompts.ranking import make_candidates, rank_candidates
from gca_core.haystack.prompts.refine import left_behind, refine
from gca_core.haystack.prompts.strategies import (
    CandidatePool,
    PromptDraft,
    make_candidate_pool,
    nothing_found,
    without_groups,
)
from gca_core.haystack.reference import as_reference, find_measurement, read_measure, reference_uri
from gca_core.haystack.results.files import ENDINGS
from gca_core.haystack.results.outputs import write_outputs
from gca_core.haystack.selection import learn_selection, terms_of
from gca_core.haystack.understand import understand as understand
from gca_core.inference.models import InferenceJob, InferenceResult, InferenceStatus
from gca_core.inference.prediction import change, differential_change, read_prediction
from gca_core.inference.predictor import require_backend
from gca_core.matrix.compare import pearson
from gca_core.matrix.differential import DifferentialExpression
from gca_core.responses.models import Expected
from gca_core.runs.models import AskedBy, Claim, IterationRow, RunPhase, RunRow, RunStatus
from gca_core.runs.state import StateRef, read_state, write_state
from gca_core.store.layout import user_name

log = logging.getLogger(__name__)

TOP_GENES = 50
# by which the radius in the Cell Ontology grows at once until there is something to try
MOST_STEPS = 10


def suggest(query: StructuredQuery, config: IterationConfig, context: HaystackContext) -> Proposal:
    """The ranked prompts of a first iteration; writes nothing.

    Raises:
        CellRetrievalError: the atlas lacks the target's control cells, or any useful perturbation.
    """
    pool = make_candidate_pool(query, config, context)
    extra, notes = drafts_of(ask_agents(query, pool, config, context), query, context)
    guide = guide_for(query, context)
    drafts = first_drafts(pool, config, guide, extra)
    if not drafts:
        raise CellRetrievalError(nothing_found(query, context))
    found = make_candidates(drafts, pool.query_groups, config)
    ranked = rank_candidates(found, config.weights, config.candidates_per_iteration)
    return Proposal(iteration=0, candidates=tuple(ranked), notes=(*pool.notes, *notes))


def start_run(
    query: StructuredQuery,
    *,
    run_id: str,
    results_uri: str,
    config: IterationConfig,
    context: HaystackContext,
    claim: Claim | None = None,
    asked_by: AskedBy | None = None,
) -> StateRef:
    """Write the first state and the run's row; a run of this id that has ended begins anew.

    Args:
        query: what is asked.
        run_id: the run's id.
        results_uri: folder of its results.
        config: its bounds.
        context: atlas, records and knowledge.
        claim: who works on it.
        asked_by: who asked; this process's user where None.

    Raises:
        CellRetrievalError: the atlas is empty.
        ConfigurationError: the backend can't run here.
        DataValidationError: a GMT file or regulon table of the config is missing or is none.
        StoreError: the run is at work already; the database can't be reached.
    """
    require_backend(config.backend, config.checkpoint, config.gene_list_uri)
    for gmt in config.grounding.gmt_uris:
        read_gmt(gmt)
    if config.grounding.regulons_uri is not None:
        read_regulons(config.grounding.regulons_uri)
    if not context.require_atlas().datasets():
        raise CellRetrievalError(EMPTY_ATLAS)
    uri = io.as_uri(results_uri)
    run = HaystackRun(
        run_id=run_id,
        results_uri=uri,
        query=query,
        config=config,
        provenance=context.provenance(config),
        measured=find_measurement(query, context)[0],
    )
    row = RunRow(
        run_id=run_id,
        question=query.question,
        results_uri=uri,
        status=RunStatus.RUNNING,
        phase=RunPhase.PROMPT_GENERATION,
        config=config.model_dump(mode="json"),
        seed=config.seed,
        **(asked_by or AskedBy(user_name=user_name())).model_dump(),
    )
    if (days := context.settings.runs_retention_days) is not None:
        context.require_runs().purge(days)
    context.require_runs().begin(row, claim or Claim())
    state = write_state(run.work_uri, 0, run, rewrite=True)
    context.require_runs().upsert_run(row.model_copy(update={"state_uri": state.uri}))
    return state


def answer(state: StateRef, feedback: Feedback, context: HaystackContext) -> StateRef:
    """Append what a person said to a state; the next gate and proposal follow it.

    Raises:
        EvaluationError: it is said to another iteration than the state's last.
    """
    run = load_run(state)
    if feedback.iteration != len(run.iterations) - 1:
        raise EvaluationError(f"the answer is to iteration {feedback.iteration}, but {len(run.iterations)} have run")
    after = run.model_copy(update={"feedback": (*run.feedback, feedback)})
    following = write_state(run.work_uri, state.iteration, after, previous=state, rewrite=True, answer=True)
    _update_row(after, following, context, phase=RunPhase.EVALUATION)
    log.info("feedback after iteration %d: %s", feedback.iteration, feedback.model_dump_json(exclude_defaults=True))
    return following


def load_run(state: StateRef) -> HaystackRun:
    """The run in a state.

    Raises:
        StoreError: the state was changed or is gone.
    """
    return read_state(state, HaystackRun)


def gate(state: StateRef, iteration: int, context: HaystackContext) -> GateDecision:
    """Whether iteration ``iteration`` runs after this state.

    Raises:
        EvaluationError: the state isn't the one before that iteration.
    """
    run = _run_before(state, iteration)
    decision = decide(run, cancelled=_is_cancelled(run, context))
    log.info("gate %d: %s %s", iteration, "go" if decision.go else f"stop ({decision.reason})", decision.detail)
    return decision


def propose(state: StateRef, iteration: int, context: HaystackContext) -> list[InferenceJob]:
    """Choose candidates, write their files and job files.

    An empty list means that nothing new is left to try; :func:`record` then keeps the reason.

    Raises:
        CellRetrievalError: the atlas lacks the target's control cells, or any useful perturbation.
    """
    run = _run_before(state, iteration)
    context.require_runs().enter(run.run_id, RunPhase.PROMPT_GENERATION, iteration)
    pool = make_candidate_pool(run.query, run.config, context)
    answer = _model_answer(run, state, pool, iteration, context)
    extra, notes = drafts_of(answer, run.query, context)
    # where the response was measured, no mixture of others stands for it
    guide = None if run.measured else guide_for(run.query, context)
    if iteration == 0:
        io.write_json(reference_uri(run), _measure(run, guide, context))
    proposal = choose(run, pool, context.knowledge, extra, guide, _predicted(run, guide))
    if iteration == 0 and not proposal.candidates:
        raise CellRetrievalError(nothing_found(run.query, context))
    proposal = proposal.model_copy(update={"notes": (*proposal.notes, *notes), "agents": summaries(answer)})
    atlas = context.require_atlas()
    if proposal.candidates:
        query = write_query(atlas, proposal.candidates[0].query_group_ids, run.work_uri, run.config)
        requests = [write_candidate(atlas, c, run.work_uri, query, run.config) for c in proposal.candidates]
        jobs = tuple(write_jobs(requests, run.work_uri, run.config))
        proposal = proposal.model_copy(update={"jobs": jobs})
    io.write_json(_proposal_uri(run, iteration), proposal)
    for candidate in proposal.candidates:
        log.info("candidate %s (%s): %s", candidate.candidate_id, candidate.strategy, candidate.rationale)
    if proposal.empty_reason:
        log.info("nothing proposed: %s", proposal.empty_reason)
    context.require_runs().enter(run.run_id, RunPhase.INFERENCE, iteration)
    return list(proposal.jobs)


def choose(
    run: HaystackRun,
    pool: CandidatePool,
    knowledge: GroundingKnowledge,
    extra: Sequence[PromptDraft] = (),
    guide: Guide | None = None,
    predicted: np.ndarray | None = None,
) -> Proposal:
    """The candidates that follow a run's state; writes nothing.

    Args:
        run: its state.
        pool: what the atlas offers.
        knowledge: the members of pathways that a prompt may miss.
        extra: what a model adds.
        guide: the reference response, where there is one.
        predicted: (n_genes,) change that the best prompt so far came to, over the guide's genes.
    """
    config, before, iteration, barred = run.config, run.evaluations(), len(run.iterations), run.excluded()
    tried, behind = {e.candidate.candidate_id for e in before}, left_behind(before)
    guide = guide.without(barred) if guide else None
    refined = refine(guide, before, config.prompt_cells, knowledge, predicted, run.preferred()) if guide else []
    fresh: list[PromptCandidate] = []
    for widened in range(iteration, iteration + MOST_STEPS):
        drafts = [d for d in first_drafts(pool, config, guide, extra, widened) if d.strategy not in behind]
        found = make_candidates(without_groups([*refined, *drafts], barred), pool.query_groups, config)
        fresh = [candidate for candidate in found if candidate.candidate_id not in tried]
        if fresh:
            break
    left = config.max_evaluations - len(before) if config.max_evaluations is not None else len(fresh)
    k = min(config.candidates_per_iteration, left)
    ranked = rank_candidates(fresh, config.weights, k, picked=[e.candidate for e in before])
    reason = "" if ranked else f"all {len(tried)} prompts within the bounds were tried"
    return Proposal(iteration=iteration, candidates=tuple(ranked), empty_reason=reason, notes=pool.notes)


def _measure(run: HaystackRun, guide: Guide | None, context: HaystackContext) -> ReferenceChange:
    """What predictions are compared with, and how their accuracy follows from that; empty where there is nothing."""
    return measure_by(guide, run.config, context) if guide else find_measurement(run.query, context)[1]


def measure_by(guide: Guide, config: IterationConfig, context: HaystackContext) -> ReferenceChange:
    """The reference response, its forecast, and how the accuracy of a prediction follows from them."""
    forecast = guide.answer.forecast
    selection = learn_selection(guide.atlas, guide.answer.support, config, context) if forecast else None
    found = as_reference(guide.genes, guide.change)
    return found.model_copy(update={"forecast": forecast, "selection": selection})


def _predicted(run: HaystackRun, guide: Guide | None) -> np.ndarray | None:
    """The change of the best prediction so far over the guide's genes, 0 where one is missing."""
    best = best_of(run.evaluations())
    if guide is None or best is None or best.prediction_uri is None or best.query_uri is None:
        return None
    found, genes = predicted_change(best.prediction_uri, best.query_uri)
    place = {gene: i for i, gene in enumerate(genes)}
    return np.array([found[place[gene]] if gene in place else 0.0 for gene in guide.genes])


def compare_with(reference: ReferenceChange, lfc: np.ndarray, genes: Sequence[str]) -> float | None:
    """Pearson correlation of a predicted change (n_genes,) with the reference response over the genes of both."""
    place = {gene: i for i, gene in enumerate(genes)}
    shared = [
        (place[gene], change) for gene, change in zip(reference.genes, reference.change, strict=True) if gene in place
    ]
    if len(shared) < 2:
        return None
    rows, expected = zip(*shared, strict=True)
    found = pearson(lfc[list(rows)], expected)
    return round(found, 4) if np.isfinite(found) else None


def expected_of(reference: ReferenceChange, agreement: float | None, score: GroundingScore) -> Expected | None:
    """The accuracy to expect of a prediction; None where the atlas can't say."""
    if reference.selection is None or reference.forecast is None or agreement is None:
        return None
    return reference.selection.expect(terms_of(agreement, reference.forecast.pearson.value, score))


def evaluate(state: StateRef, iteration: int, result: InferenceResult, context: HaystackContext) -> CandidateEvaluation:
    """Score one prediction against what the catalogue expects; a failed inference stays a failure.

    Raises:
        EvaluationError: the result is of no candidate of this iteration, or its file can't be scored.
    """
    run = _run_before(state, iteration)
    context.require_runs().enter(run.run_id, RunPhase.EVALUATION, iteration)
    candidate = _candidate(read_proposal(run, iteration), result.candidate_id)
    if result.status is not InferenceStatus.SUCCEEDED or result.prediction_uri is None:
        return CandidateEvaluation(
            candidate=candidate,
            status=EvaluationStatus.FAILED,
            duration_seconds=result.duration_seconds,
            backend=result.backend,
            model=result.model,
            error=result.error or f"the inference ended as {result.status}",
        )
    query = query_uri(run.work_uri)
    config = run.config.grounding
    predicted, control = read_prediction(result.prediction_uri, query)
    found = differential_change(predicted, control, min_lfc=config.min_lfc, max_padj=config.max_padj)
    lfc = change(predicted, control)
    literature = _literature(run, found, context)
    score = score_response(found, run.query.expectation, context.knowledge, config, literature)
    log.info(
        "candidate %s: %s", candidate.candidate_id, "ungroundable" if score.score is None else f"{score.score:.2f}"
    )
    scored = score.status is GroundingStatus.SCORED
    reference = read_measure(run)
    agreement = compare_with(reference, lfc, found.genes)
    return CandidateEvaluation(
        candidate=candidate,
        status=EvaluationStatus.SCORED if scored else EvaluationStatus.UNGROUNDABLE,
        grounding=score,
        prediction_uri=result.prediction_uri,
        query_uri=query,
        top_genes=largest_changes(lfc, found.genes),
        agreement=agreement,
        expected=expected_of(reference, agreement, score),
        metrics=result.metrics,
        duration_seconds=result.duration_seconds,
        backend=result.backend,
        model=result.model,
        cached=result.cached,
        literature_answers=literature.answers,
        literature_cached=literature.answers_cached,
    )


def record(
    state: StateRef, iteration: int, evaluations: Sequence[CandidateEvaluation], context: HaystackContext
) -> StateRef:
    """Append an iteration to the state, and project it into the run's row.

    Recording an iteration again replaces it and what followed from it.

    Raises:
        EvaluationError: an evaluation is missing, or of no candidate of this iteration.
        InferenceError: every inference of the iteration failed.
    """
    run = _run_before(state, iteration)
    proposal = read_proposal(run, iteration)
    ordered = _in_order(proposal, evaluations)
    best = best_of(ordered)
    done = IterationRecord(
        iteration=iteration,
        evaluations=ordered,
        best_candidate_id=best.candidate.candidate_id if best else None,
        best_score=best.score if best else None,
        empty_reason=proposal.empty_reason,
        notes=proposal.notes,
        agents=proposal.agents,
        duration_seconds=round(sum(e.duration_seconds for e in ordered), 3),
    )
    if ordered and best is None:
        reasons = "; ".join(f"{e.candidate.candidate_id}: {e.error}" for e in ordered)
        error = f"every inference of iteration {iteration} failed: {reasons}"
        _update_row(run, state, context, status=RunStatus.FAILED, phase=RunPhase.EVALUATION, error=error)
        raise InferenceError(error)
    after = run.model_copy(update={"iterations": (*run.iterations, done)})
    store = context.require_runs()
    store.cut_back(run.run_id, iteration)
    following = write_state(run.work_uri, iteration + 1, after, previous=state, rewrite=True)
    store.upsert_iteration(
        run.run_id,
        iteration,
        IterationRow(
            score=done.best_score,
            expected=best.expected.value if best and best.expected else None,
            state_uri=following.uri,
            state_sha256=following.sha256,
            record=_summary(done),
        ),
    )
    _update_row(after, following, context, phase=RunPhase.EVALUATION)
    log.info("iteration %d: best score %s", iteration, "none" if done.best_score is None else f"{done.best_score:.2f}")
    return following


def finalize(state: StateRef, context: HaystackContext) -> HaystackOutputs:
    """Write the AnnData, report and log of the best iteration of all, and close the run's row."""
    run = load_run(state)
    cancelled = _is_cancelled(run, context)
    context.require_runs().enter(run.run_id, RunPhase.OUTPUT_GENERATION)
    outputs = write_outputs(run, state.uri, decide(run, cancelled=cancelled), context)
    status = RunStatus.CANCELLED if cancelled else RunStatus.COMPLETED
    reason = outputs.termination_reason.value
    files = {kind: uri for kind in ENDINGS if (uri := getattr(outputs, f"{kind}_uri")) is not None}
    phase = RunPhase.OUTPUT_GENERATION
    _update_row(run, state, context, status=status, phase=phase, termination_reason=reason, outputs=files)
    return outputs.model_copy(update={"status": status.value})


def read_proposal(run: HaystackRun, iteration: int) -> Proposal:
    """What :func:`propose` wrote for an iteration.

    Raises:
        DataValidationError: there is none.
    """
    return Proposal.model_validate(io.read_json(_proposal_uri(run, iteration), what="proposal"))


def predicted_change(prediction_uri: str, query_uri: str) -> tuple[np.ndarray, list[str]]:
    """Change of mean log1p(CP10k) of predicted against control cells, (n_genes,), and the genes.

    The control is the one in the prediction's file, which a model backend generates, or else the query.

    Raises:
        EvaluationError: the files hold different genes.
    """
    predicted, control = read_prediction(prediction_uri, query_uri)
    return change(predicted, control), predicted.var_names.astype(str).tolist()


def largest_changes(lfc: np.ndarray, genes: Sequence[str], k: int = TOP_GENES) -> tuple[GeneChange, ...]:
    """The ``k`` genes with the largest absolute change, largest first, equals in gene order."""
    order = np.argsort(-np.abs(lfc), kind="stable")[:k]
    return tuple(GeneChange(gene=genes[i], change=round(float(lfc[i]), 6)) for i in order)


def _literature(run: HaystackRun, found: DifferentialExpression, context: HaystackContext) -> Literature:
    """What PubMed says of the strongest genes where it is switched on; names that only the atlas knows stay here."""
    names = context.literature_names(run.query)
    return search_literature(found.strongest_of_both(run.config.grounding.literature_genes), names, run.query.cell_type)


def _model_answer(
    run: HaystackRun, state: StateRef, pool: CandidatePool, iteration: int, context: HaystackContext
) -> ModelAnswer | None:
    """What a model proposes after a state: asked once, then read from its file, so that the step can be repeated.

    The file is the transcript too, also where the model failed and is asked again.
    """
    if context.language_model is None:
        return None
    uri = transcript_uri(run, state.sha256, iteration, context.language_model)
    if io.as_path(uri).exists():
        kept = ModelAnswer.model_validate(io.read_json(uri, what="answer of a model"))
        if not kept.failure:
            return kept
    answer = ask_agents(run.query, pool, run.config, context, run)
    if answer is not None:
        io.write_json(uri, answer)
    return answer


def _run_before(state: StateRef, iteration: int) -> HaystackRun:
    run = load_run(state)
    if len(run.iterations) != iteration:
        raise EvaluationError(
            f"the state {state.uri} stands after {len(run.iterations)} iterations, but iteration {iteration} was asked "
            "for; pass the state that the iteration before wrote"
        )
    return run


def _candidate(proposal: Proposal, candidate_id: str) -> PromptCandidate:
    for candidate in proposal.candidates:
        if candidate.candidate_id == candidate_id:
            return candidate
    raise EvaluationError(f"{candidate_id!r} is no candidate of iteration {proposal.iteration}; propose it first")


def _in_order(proposal: Proposal, evaluations: Sequence[CandidateEvaluation]) -> tuple[CandidateEvaluation, ...]:
    given = {e.candidate.candidate_id: e for e in evaluations}
    expected = [c.candidate_id for c in proposal.candidates]
    if set(given) != set(expected):
        odd = ", ".join(sorted(set(given) ^ set(expected)))
        raise EvaluationError(f"the evaluations don't fit the candidates of iteration {proposal.iteration}: {odd}")
    return tuple(given[candidate_id] for candidate_id in expected)


def _proposal_uri(run: HaystackRun, iteration: int) -> str:
    return io.join_uri(run.work_uri, f"proposal-{iteration}.json")


def _summary(done: IterationRecord) -> dict[str, object]:
    rows = [
        {
            "candidate_id": e.candidate.candidate_id,
            "strategies": [s.value for s in e.candidate.strategies],
            "cell_types": list(e.candidate.cell_types),
            "perturbations": list(e.candidate.perturbations),
            "status": e.status.value,
            "score": e.score,
            "error": e.error,
        }
        for e in done.evaluations
    ]
    return {"best_candidate_id": done.best_candidate_id, "empty_reason": done.empty_reason, "candidates": rows}


def _is_cancelled(run: HaystackRun, context: HaystackContext) -> bool:
    row = context.require_runs().get(run.run_id)
    return row is not None and row.status is RunStatus.CANCELLED


def _cost(run: HaystackRun) -> dict[str, float]:
    agents = run.agents()
    return {
        "inference_seconds": round(sum(e.duration_seconds for e in run.evaluations()), 3),
        "predictions": len(run.evaluations()),
        "model_calls": sum(agent.calls for agent in agents),
        "model_tokens": sum(agent.input_tokens + agent.output_tokens for agent in agents),
    }


def _update_row(run: HaystackRun, state: StateRef, context: HaystackContext, **changes: object) -> None:
    """Project a state into the run's row."""
    best = best_of(run.evaluations())
    row = RunRow(
        run_id=run.run_id,
        question=run.query.question,
        results_uri=run.results_uri,
        status=RunStatus.RUNNING,
        best_score=best.score if best else None,
        best_iteration=next((r.iteration for r in run.iterations if best in r.evaluations), None) if best else None,
        state_uri=state.uri,
        config=run.config.model_dump(mode="json"),
        iteration=len(run.iterations) - 1 if run.iterations else None,
        seed=run.config.seed,
        cost=_cost(run),
    )
    context.require_runs().upsert_run(row.model_copy(update=changes))
