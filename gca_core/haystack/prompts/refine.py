"""Prompts from feedback: widen, combine, narrow.

Only grounding scores of earlier iterations are looked at. The moves are bounded by the groups that the
atlas offers, and a prompt that was already evaluated is never proposed again.
"""

from collections.abc import Iterable, Sequence

from gca_core.haystack.decide import best_of
from gca_core.haystack.models import CandidateEvaluation, IterationConfig, Strategy
from gca_core.haystack.prompts.strategies import CandidatePool, PromptDraft

COMBINED = 3


def refine(
    pool: CandidatePool, evaluations: Sequence[CandidateEvaluation], config: IterationConfig
) -> list[PromptDraft]:
    """Drafts that follow from what was tried.

    * widen: the nearest type that no prompt with a prediction has used, alone and together with the best prompt;
    * combine: the best prompt with each of the next best;
    * narrow: the best prompt without one of its types.

    Types whose own prompt scored lower than the best by ``min_improvement`` or more are not combined.
    """
    best = best_of(evaluations)
    if best is None:
        return list(_widen(pool, evaluations, None, frozenset()))
    weak = _weak_types(pool, evaluations, best.score, config.min_improvement)
    drafts = list(_widen(pool, evaluations, best, weak))
    drafts += _combine(pool, evaluations, best, weak)
    drafts += _narrow(pool, best)
    return drafts


def _widen(
    pool: CandidatePool,
    evaluations: Sequence[CandidateEvaluation],
    best: CandidateEvaluation | None,
    weak: frozenset[str],
) -> Iterable[PromptDraft]:
    tried = {group for e in evaluations if e.prediction_uri for group in e.candidate.cell_group_ids}
    fresh = [t for t in pool.same if not tried & {g.group_id for g in pool.same[t]}]
    if not fresh:
        return
    nearest = min(pool.distances[t] for t in fresh)
    for cell_type in (t for t in fresh if pool.distances[t] == nearest):
        label = pool.same[cell_type][0].cell_type
        yield PromptDraft(
            Strategy.REFINEMENT, pool.tier([cell_type]), f"widened to {label}, {nearest} steps from the target"
        )
        types = _types(pool, best) - weak if best else set()
        if types:
            yield _joined(pool, {*types, cell_type}, f"the best prompt so far widened by {label}")


def _combine(
    pool: CandidatePool, evaluations: Sequence[CandidateEvaluation], best: CandidateEvaluation, weak: frozenset[str]
) -> list[PromptDraft]:
    ordered = sorted(
        (e for e in evaluations if e.score is not None and e is not best),
        key=lambda e: (-(e.score or 0.0), e.candidate.candidate_id),
    )
    own = _types(pool, best)
    drafts = []
    for other in ordered[:COMBINED]:
        types = (own | _types(pool, other)) - weak
        if own and types > own:
            labels = "; ".join(other.candidate.cell_types)
            drafts.append(_joined(pool, types, f"the best prompt so far together with {labels}"))
    return drafts


def _narrow(pool: CandidatePool, best: CandidateEvaluation) -> list[PromptDraft]:
    types = _types(pool, best)
    if len(types) < 2:
        return []
    return [
        _joined(pool, types - {t}, f"the best prompt so far without {pool.same[t][0].cell_type}") for t in sorted(types)
    ]


def _joined(pool: CandidatePool, types: Iterable[str], rationale: str) -> PromptDraft:
    ordered = [t for t in pool.same if t in set(types)]
    return PromptDraft(Strategy.REFINEMENT, pool.tier(ordered), rationale)


def _types(pool: CandidatePool, evaluation: CandidateEvaluation) -> set[str]:
    """The cell types of a prompt that is made of the asked perturbation."""
    used = set(evaluation.candidate.cell_group_ids)
    return {t for t, groups in pool.same.items() if used & {g.group_id for g in groups}}


def _weak_types(
    pool: CandidatePool, evaluations: Sequence[CandidateEvaluation], best: float | None, gap: float
) -> frozenset[str]:
    weak = set()
    for evaluation in evaluations:
        types = _types(pool, evaluation)
        low = evaluation.score is not None and best is not None and evaluation.score <= best - gap
        if len(types) == 1 and gap > 0 and low:
            weak |= types
    return frozenset(weak)
