"""Prompts from feedback: correct the best one, combine it, and add what carries an expected pathway.

What a prompt's prediction came to decides: how far it lies from the reference response, and what the parts of its
grounding score miss. The moves are bounded by the groups that the atlas offers, and a prompt that was already
evaluated is never proposed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gca_core.grounding.models import ActionKind, Suggestion
from gca_core.haystack.decide import accuracy_of, best_of, preference
from gca_core.haystack.models import CandidateEvaluation, Strategy
from gca_core.haystack.prompts.from_reference import Array, Guide, Member
from gca_core.haystack.prompts.ranking import cells_of
from gca_core.haystack.prompts.strategies import PromptDraft

if TYPE_CHECKING:
    from gca_core.grounding.knowledge import GroundingKnowledge

# of the next best prompts that the best is combined with, and of missing pathways that are seen to
COMBINED, CARRIED, PREFERRED = 2, 1, 3
CARRIED_SHARE = 0.25


def refine(
    guide: Guide,
    evaluations: Sequence[CandidateEvaluation],
    room: int,
    knowledge: GroundingKnowledge,
    predicted: Array | None = None,
    preferred: Sequence[str] = (),
) -> list[PromptDraft]:
    """Drafts that follow from what was tried.

    * correct: the best prompt, weighed against what its prediction misses;
    * combine: the best prompt with each of the next best;
    * carry: the best prompt with the responses that carry an expected pathway which it misses.

    Args:
        guide: the reference response, and what the groups add.
        evaluations: of all prompts tried.
        room: cells that a prompt has room for.
        knowledge: the members of pathways.
        predicted: (n_genes,) change that the best prompt came to; None where it isn't known.
        preferred: pathways that a person wants to see, which go before those that are missing.
    """
    best = best_of(evaluations)
    if best is None:
        return []
    own = _members(guide, best)
    groups = [group for group, _ in own]
    drafts = []
    if predicted is not None:
        wider = {group.group_id: group for group in (*groups, *guide.heaviest())}
        target = guide.change + _missed(guide.change, predicted)
        drafts.append((guide.weigh(wider.values(), room, target), "corrected for what its prediction misses"))
    next_best = sorted((e for e in evaluations if e is not best and e.prediction_uri), key=preference)
    for other in next_best[:COMBINED]:
        both = {group.group_id: group for group in (*groups, *(g for g, _ in _members(guide, other)))}
        labels = "; ".join(other.candidate.cell_types)
        drafts.append((guide.weigh(both.values(), room), f"together with that of {labels}"))
    suggested = best.grounding.improvement_suggestions if best.grounding else ()
    missing = [s for s in suggested if s.action in {ActionKind.STRENGTHEN, ActionKind.REVERSE} and s.subject]
    wanted = [_wanted(name, missing) for name in preferred[:PREFERRED]]
    for suggestion in [*wanted, *missing[: 0 if wanted else CARRIED]]:
        carriers = _carriers(guide, suggestion, knowledge, room // 4)
        drafts.append((_joined(own, carriers), f"with responses that carry {suggestion.subject}"))
    return [
        guide.near(PromptDraft(Strategy.REFINEMENT, tuple(members), f"the best prompt so far {how}"))
        for members, how in drafts
        if members
    ]


def left_behind(evaluations: Sequence[CandidateEvaluation]) -> frozenset[Strategy]:
    """The strategies whose best prompt came out at less than half of what the best of all did."""
    best: dict[Strategy, float] = {}
    for evaluation in evaluations:
        found = accuracy_of(evaluation)
        for strategy in evaluation.candidate.strategies if found is not None else ():
            best[strategy] = max(best.get(strategy, -1.0), found or 0.0)
    most = max(best.values(), default=0.0)
    return frozenset(strategy for strategy, found in best.items() if found < most / 2)


def _members(guide: Guide, evaluation: CandidateEvaluation) -> list[Member]:
    candidate = evaluation.candidate
    shares = zip(candidate.cell_group_ids, candidate.weights, strict=True)
    return [(guide.groups[group_id], weight) for group_id, weight in shares if group_id in guide.groups]


def _wanted(name: str, missing: Sequence[Suggestion]) -> Suggestion:
    """A pathway that a person named, in the direction that is expected of it, else up."""
    known = next((suggestion for suggestion in missing if suggestion.subject == name), None)
    return known or Suggestion(action=ActionKind.STRENGTHEN, component="feedback", subject=name, direction="up")


def _missed(wanted: Array, predicted: Array) -> Array:
    """What a change lacks of another, both taken at the length at which they lie nearest."""
    a, b = wanted - wanted.mean(), predicted - predicted.mean()
    size = float(b @ b)
    return np.asarray(a - b * (float(a @ b) / size if size else 0.0))


def _carriers(guide: Guide, suggestion: Suggestion, knowledge: GroundingKnowledge, room: int) -> list[Member]:
    """Groups like the reference that move a gene set, footprint or gene most in the wanted direction."""
    weights = knowledge.footprints.get(suggestion.subject) or dict.fromkeys(
        knowledge.gene_sets.get(suggestion.subject, (suggestion.subject,)), 1.0
    )
    signed = np.array([weights.get(gene, 0.0) for gene in guide.genes])
    if not signed.any():
        return []
    sign = -1.0 if suggestion.direction == "down" else 1.0
    responses = np.asarray(guide.responses, dtype=np.float64)
    centred = responses - responses.mean(axis=1, keepdims=True)
    moved = sign * (centred @ signed) / np.maximum(np.linalg.norm(centred, axis=1), 1e-12)
    like = centred @ (guide.change - guide.change.mean()) > 0
    found: list[Member] = []
    for row in np.argsort(-moved, kind="stable"):
        if moved[row] <= 0 or room <= 0:
            break
        own = [group for group in guide.groups.values() if guide.row(group) == row] if like[row] else []
        room -= sum(map(cells_of, own))
        found += [(group, 1.0) for group in own]
    return found


def _joined(own: Sequence[Member], others: Sequence[Member]) -> list[Member]:
    """Both, the others with a quarter of the weight; nothing where either is empty."""
    if not own or not others:
        return []
    total = sum(weight for _, weight in own)
    share = total * CARRIED_SHARE / (1 - CARRIED_SHARE) / len(others)
    joined = {group.group_id: (group, weight) for group, weight in own}
    for group, _ in others:
        joined[group.group_id] = (group, joined.get(group.group_id, (group, 0.0))[1] + share)
    return list(joined.values())
