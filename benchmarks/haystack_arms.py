"""Ways of answering a question: by no choice, chance, one strategy, all of them, the loop, and one who knows.

All but the mean responses choose among prompts as the loop does, by the accuracy to expect, with at most ``CALLS``
predictions; one row chooses by the grounding score instead.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from haystack_cases import NOTHING, Case, Utility

from gca_core import io
from gca_core.atlas.models import CellGroup
from gca_core.errors import CellRetrievalError
from gca_core.haystack import steps
from gca_core.haystack.decide import best_of, decide, verdict
from gca_core.haystack.models import (
    CandidateEvaluation,
    HaystackRun,
    IterationConfig,
    IterationRecord,
    PromptCandidate,
    Strategy,
)
from gca_core.haystack.prompts.from_reference import first_drafts
from gca_core.haystack.prompts.ranking import make_candidates, rank_candidates
from gca_core.haystack.prompts.strategies import CandidatePool, PromptDraft, make_candidate_pool, run_strategies
from gca_core.haystack.run import run_haystack
from gca_core.inference.job import run_job
from gca_core.runs.state import StateRef

CALLS = 20
# every stop rule but the number of iterations is off, so that all arms have the same number of calls; and a response
# that other donors have is predicted, too
TO_THE_END = {"score_threshold": 10.0, "plateau_window": 10, "predict_anyway": True}
LOOP, ONE_ITERATION, DEFAULT_STOPS = "loop", "loop, one iteration", "loop, default stop rules"
NO_FEEDBACK = "best of N without feedback"


@dataclass(frozen=True)
class Answer:
    """What one way of answering came to.

    Attributes:
        utility: of no change, where it gave no answer.
        calls: predictions that it made; 0 is no answer.
        chosen: the candidate, where it chose one.
        ended: what a run came to.
    """

    utility: Utility
    calls: int = 0
    chosen: CandidateEvaluation | None = None
    ended: str = "nothing to prompt with"


Tier = tuple[str, str]


def answer_all(case: Case, folder: Path, rng: np.random.Generator, *, check: bool = False) -> dict[str, Answer]:
    """Every way's answer to a question; ``check`` asks the loop again through its own door."""
    # first, so that all have the loop's own draws of the prompts that it tried
    pool = _pool(case)
    run = _run(case, folder) if case.realise else _run_on_vectors(case, pool)
    if check and run and case.realise:
        assert same_from_the_door(case, run, folder.with_name(f"{folder.name}-door")), "run_haystack differs"
    tiers = _tiers(case)
    answers = {
        "random prompt": _chosen(case, _random(case, tiers, rng, 1)),
        "random prompts, best of N": _chosen(case, _random(case, tiers, rng, CALLS)),
    }
    asked = case.query.perturbation
    same = {t: groups for (p, t), groups in tiers.items() if p == asked}
    others = [groups for (p, t), groups in tiers.items() if p != asked and t == case.query.cell_type_id]
    answers["mean shift of all types"] = _mean(case, [g for t, g in same.items() if t != case.query.cell_type_id])
    answers["type's mean response"] = _mean(case, others)
    drafts = run_strategies(pool, case.config) if pool else []
    steps_to = pool.distances if pool else {}
    nearest = min((t for t in same if t in steps_to), key=lambda t: (steps_to[t], t), default=None)
    answers["nearest type"] = _mean(case, [same[nearest]] if nearest else [])
    # the reference is an arm of its own
    for strategy in (s for s in case.config.strategies if s is not Strategy.REFERENCE):
        own = [draft for draft in drafts if draft.strategy is strategy]
        answers[f"{strategy.value} alone"] = _chosen(case, _ranked(case, own, pool, CALLS))
    answers["one-shot"] = _chosen(case, _ranked(case, drafts, pool, 1))
    guided = first_drafts(pool, case.config, case.guide) if pool else []
    without = _ranked(case, guided, pool, CALLS)
    answers[NO_FEEDBACK] = _chosen(case, without)
    answers["the same, by grounding score"] = _by_score(case, without)
    answers["reference"] = _reference(case)
    answers |= _of_run(case, run)
    answers["oracle, one prompt"] = _oracle(case, tiers)
    best = max((case.truth.utility(case.change_of(case.evaluate(c))) for c in without), key=_mean_of, default=None)
    answers["oracle, best of N"] = Answer(best or NOTHING, len(without))
    if case.measured is not None:
        answers["measured, and hidden"] = Answer(case.truth.utility(case.measured))
    return answers


def _mean_of(utility: Utility) -> float:
    return utility.mean


def _tiers(case: Case) -> dict[Tier, list[CellGroup]]:
    """The groups that are shown, by perturbation and type."""
    found: dict[Tier, list[CellGroup]] = defaultdict(list)
    for group in case.atlas.groups(dataset=case.query.dataset, is_control=False):
        if group.control_group_id is not None:
            found[group.perturbation, group.cell_type_id].append(group)
    return dict(found)


def _pool(case: Case) -> CandidatePool | None:
    try:
        return make_candidate_pool(case.query, case.config, case.context)
    except CellRetrievalError:
        return None


def _mean(case: Case, tiers: Sequence[Sequence[CellGroup]]) -> Answer:
    """The mean over tiers of the mean over their groups, as the answer."""
    if not tiers:
        return Answer(_nothing(case))
    shift = np.mean([np.mean([case.changes[g.group_id] for g in groups], axis=0) for groups in tiers], axis=0)
    return Answer(case.truth.utility(case.predict(shift)), 1)


def _reference(case: Case) -> Answer:
    """What the atlas itself says, fitted on the responses that are shown."""
    if case.guide is None:
        return Answer(_nothing(case))
    assert case.guide.genes == case.genes
    return Answer(case.truth.utility(case.predict(case.guide.change)), 1)


def _nothing(case: Case) -> Utility:
    return case.truth.utility(np.zeros(len(case.genes)))


def _ranked(case: Case, drafts: Sequence[PromptDraft], pool: CandidatePool | None, k: int) -> list[PromptCandidate]:
    if pool is None:
        return []
    return rank_candidates(make_candidates(drafts, pool.query_groups, case.config), case.config.weights, k)


def _random(case: Case, tiers: dict[Tier, list[CellGroup]], rng: np.random.Generator, k: int) -> list[PromptCandidate]:
    picked = [sorted(tiers)[i] for i in rng.permutation(len(tiers))[:k]]
    query = case.atlas.groups(dataset=case.query.dataset, cell_type_ids=[case.query.cell_type_id], is_control=True)
    drafts = [PromptDraft(Strategy.MODEL, tuple((g, 1.0) for g in tiers[tier]), "by chance") for tier in picked]
    return make_candidates(drafts, query, case.config)


def _chosen(case: Case, candidates: Sequence[PromptCandidate]) -> Answer:
    """The candidate that the loop would take."""
    best = best_of([case.evaluate(candidate) for candidate in candidates])
    if best is None:
        return Answer(_nothing(case))
    return Answer(case.truth.utility(case.change_of(best)), len(candidates), best)


def _by_score(case: Case, candidates: Sequence[PromptCandidate]) -> Answer:
    """The candidate with the highest grounding score."""
    tried = [case.evaluate(candidate) for candidate in candidates]
    best = max(tried, key=lambda e: (e.score or 0.0, e.candidate.candidate_id), default=None)
    return Answer(case.truth.utility(case.change_of(best)) if best else _nothing(case), len(candidates), best)


def _oracle(case: Case, tiers: dict[Tier, list[CellGroup]]) -> Answer:
    """The one perturbation and type that answers best."""
    means = [np.mean([case.changes[g.group_id] for g in groups], axis=0) for groups in tiers.values()]
    best = max(means, key=lambda shift: case.truth.utility(shift).mean)
    return Answer(case.truth.utility(case.predict(best)), len(tiers))


def _run(case: Case, folder: Path) -> HaystackRun | None:
    """The loop to its end, by its own steps; inference in this process, where a user's has one of its own."""
    context, config = case.context, case.config.model_copy(update=TO_THE_END)
    state = steps.start_run(case.query, run_id=folder.name, results_uri=str(folder), config=config, context=context)
    done = 0
    try:
        while steps.gate(state, done, context).go:
            jobs = steps.propose(state, done, context)
            results = [result for job in jobs for result in run_job(job.job_uri).results]
            evaluations = [steps.evaluate(state, done, result, context) for result in results]
            state = steps.record(state, done, evaluations, context)
            done += 1
    except CellRetrievalError:
        return None
    run = steps.load_run(state)
    case.keep_run(run.evaluations())
    return run


def same_from_the_door(case: Case, run: HaystackRun, folder: Path) -> bool:
    """Whether :func:`run_haystack` comes to the same prompts and scores as the steps did in this process."""
    outputs = run_haystack(
        cell_type=case.question.cell_type_id,
        perturbation=case.question.perturbation,
        config=run.config,
        settings=case.context.settings,
        dataset=case.query.dataset,
        context=case.context,
        results_uri=str(folder),
    )
    uri = outputs.state_uri
    again = steps.load_run(StateRef(uri=uri, sha256=io.sha256_file(uri), iteration=outputs.n_iterations))
    found, expected = ([(e.candidate.candidate_id, e.score) for e in each.evaluations()] for each in (again, run))
    return found == expected


def _run_on_vectors(case: Case, pool: CandidatePool | None) -> HaystackRun | None:
    """The same decisions where there are no cells to run on."""
    if pool is None:
        return None
    config = case.config.model_copy(update=TO_THE_END)
    run = HaystackRun(
        run_id="vectors", results_uri="", query=case.query, config=config, provenance=case.context.provenance(config)
    )
    while decide(run).go:
        best = best_of(run.evaluations())
        predicted = case.change_of(best) if best else None
        proposal = steps.choose(run, pool, case.context.knowledge, (), case.guide, predicted)
        tried = tuple(case.evaluate(candidate) for candidate in proposal.candidates)
        record = IterationRecord(iteration=len(run.iterations), evaluations=tried, empty_reason=proposal.empty_reason)
        run = run.model_copy(update={"iterations": (*run.iterations, record)})
    return run


def _of_run(case: Case, run: HaystackRun | None) -> dict[str, Answer]:
    """A run's answer at its end, after one iteration, and where the default rules would have stopped it."""
    if run is None:
        return dict.fromkeys((ONE_ITERATION, DEFAULT_STOPS, LOOP), Answer(_nothing(case)))
    cuts = [run.model_copy(update={"iterations": run.iterations[:n]}) for n in range(1, len(run.iterations) + 1)]
    defaults = IterationConfig()
    stopped = next((cut for cut in cuts if not decide(cut.model_copy(update={"config": defaults})).go), run)
    found = {}
    for name, cut in ((ONE_ITERATION, cuts[0] if cuts else run), (DEFAULT_STOPS, stopped), (LOOP, run)):
        best = best_of(cut.evaluations())
        utility = case.truth.utility(case.change_of(best)) if best else _nothing(case)
        ended = verdict(cut.model_copy(update={"config": defaults}))[0].value
        found[name] = Answer(utility, len(cut.evaluations()), best, ended)
    return found
