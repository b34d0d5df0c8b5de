"""From drafts to ranked candidates.

The rank score is 0.4 relevance + 0.3 diversity + 0.3 quality by default: relevance is the mean of the
groups' relevance, diversity is 1 minus the largest Jaccard overlap of groups with candidates that were
already picked, and quality is the share of the groups' cells out of 100, times 0.8 where the control is
of the same type but not of the same donor.

A prompt is composed of as many groups as its budget has cells for: 20 cells of a group are wanted, or all of a
smaller one, so that 1,000 cells make room for 50 groups or more. The more relevant and better ones are kept.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from gca_core import io
from gca_core.atlas.models import CellGroup
from gca_core.haystack.models import IterationConfig, PromptCandidate, RankingWeights, Strategy
from gca_core.haystack.prompts.strategies import PromptDraft

ENOUGH_CELLS = 100
CELLS_PER_GROUP = 20
UNMATCHED_DONOR = 0.8
_DIGITS = 6


def make_candidates(
    drafts: Iterable[PromptDraft], query_groups: Sequence[CellGroup], config: IterationConfig
) -> list[PromptCandidate]:
    """Candidates of drafts; drafts of the same groups become one that names all their strategies."""
    merged: dict[str, PromptCandidate] = {}
    for draft in drafts:
        candidate = _candidate(draft, query_groups, config)
        known = merged.get(candidate.candidate_id)
        if known is None:
            merged[candidate.candidate_id] = candidate
        elif draft.strategy not in known.strategies:
            merged[candidate.candidate_id] = known.model_copy(
                update={"strategies": (*known.strategies, draft.strategy)}
            )
    return list(merged.values())


def rank_candidates(
    candidates: Sequence[PromptCandidate], weights: RankingWeights, k: int, *, picked: Sequence[PromptCandidate] = ()
) -> list[PromptCandidate]:
    """The ``k`` best, picked one by one so that each adds to those before it, that of the reference first.

    What a model alone proposes takes no more than half of the places and never the first, unless the rules have no
    more: whatever it says, the rules' best are tried. O(k * candidates).

    Args:
        candidates: what to choose from.
        weights: how much relevance, diversity and quality count.
        k: how many.
        picked: candidates of earlier iterations, which count for diversity.
    """
    left, chosen = list(candidates), list(picked)
    ranked: list[PromptCandidate] = []
    while left and len(ranked) < k:
        by_rules = [candidate for candidate in left if not _of_model(candidate)]
        full = not ranked or sum(map(_of_model, ranked)) >= k // 2
        scored = [
            _with_diversity(candidate, chosen, weights) for candidate in (by_rules if full and by_rules else left)
        ]
        best = min(scored, key=lambda c: (Strategy.REFERENCE not in c.strategies, -c.rank_score, c.candidate_id))
        ranked.append(best)
        chosen.append(best)
        left = [candidate for candidate in left if candidate.candidate_id != best.candidate_id]
    return ranked


def candidate_hash(
    members: Sequence[tuple[str, float]], query_group_ids: Sequence[str], config: IterationConfig
) -> str:
    """The identity of a candidate: what is asked of which model, and never its place in a list."""
    content = {
        "groups": sorted([group, round(weight, _DIGITS)] for group, weight in members),
        "query": sorted(query_group_ids),
        "prompt_cells": config.prompt_cells,
        "query_cells": config.query_cells,
        "backend": config.backend,
        "checkpoint": config.checkpoint,
        "gene_list": config.gene_list_uri,
        "diffusion_steps": config.diffusion_steps,
        "batch_size": config.batch_size,
        "seed": config.seed,
        "prediction_seeds": config.prediction_seeds,
        "nonce": config.nonce,
    }
    return f"c-{io.content_hash(content)[:12]}"


def compose(members: Sequence[tuple[CellGroup, float]], budget: int) -> list[tuple[CellGroup, float]]:
    """The groups that a budget of cells has room for: by relevance, then quality, then id; each group once."""
    once = {group.group_id: (group, relevance) for group, relevance in sorted(members, key=lambda m: m[1])}
    ordered = sorted(once.values(), key=lambda m: (-m[1], -_quality(m[0]), m[0].group_id))
    filled = np.cumsum([cells_of(group) for group, _ in ordered])
    return ordered[: max(1, int((filled <= budget).sum()))]


def cells_of(group: CellGroup) -> int:
    """How many cells of a group a prompt has at least."""
    return min(group.n_cells, CELLS_PER_GROUP)


def _candidate(draft: PromptDraft, query_groups: Sequence[CellGroup], config: IterationConfig) -> PromptCandidate:
    members = sorted(compose(draft.members, config.prompt_cells), key=lambda member: member[0].group_id)
    weights = tuple(round(relevance, _DIGITS) for _, relevance in members)
    groups = [group for group, _ in members]
    query_ids = tuple(sorted(group.group_id for group in query_groups))
    return PromptCandidate(
        candidate_id=candidate_hash([(g.group_id, w) for g, w in zip(groups, weights, strict=True)], query_ids, config),
        strategy=draft.strategy,
        strategies=(draft.strategy,),
        cell_group_ids=tuple(group.group_id for group in groups),
        control_group_ids=tuple(group.control_group_id or "" for group in groups),
        query_group_ids=query_ids,
        weights=weights,
        perturbations=tuple(sorted({group.perturbation for group in groups})),
        cell_types=tuple(sorted({group.cell_type for group in groups})),
        n_cells=sum(group.n_cells for group in groups),
        relevance=round(sum(weights) / len(weights) if draft.relevance is None else draft.relevance, _DIGITS),
        quality=round(sum(map(_quality, groups)) / len(groups), _DIGITS),
        rationale=draft.rationale,
    )


def _quality(group: CellGroup) -> float:
    matched = 1.0 if group.control_match == "type_and_donor" or group.donor is None else UNMATCHED_DONOR
    return min(1.0, group.n_cells / ENOUGH_CELLS) * matched


def _of_model(candidate: PromptCandidate) -> bool:
    return set(candidate.strategies) == {Strategy.MODEL}


def _with_diversity(
    candidate: PromptCandidate, chosen: Sequence[PromptCandidate], weights: RankingWeights
) -> PromptCandidate:
    diversity = 1.0 - max((_jaccard(candidate, other) for other in chosen), default=0.0)
    score = (
        weights.relevance * candidate.relevance + weights.diversity * diversity + weights.quality * candidate.quality
    )
    return candidate.model_copy(update={"diversity": round(diversity, _DIGITS), "rank_score": round(score, _DIGITS)})


def _jaccard(a: PromptCandidate, b: PromptCandidate) -> float:
    x, y = set(a.cell_group_ids), set(b.cell_group_ids)
    return len(x & y) / len(x | y)
