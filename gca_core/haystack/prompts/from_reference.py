"""Prompts that stand for the reference response: groups whose weighted sum comes nearest to it."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from gca_core.errors import CellRetrievalError, DataValidationError
from gca_core.haystack.models import Strategy
from gca_core.haystack.prompts.ranking import CELLS_PER_GROUP, cells_of
from gca_core.haystack.prompts.strategies import MIN_SIMILARITY, CandidatePool, PromptDraft, run_strategies
from gca_core.haystack.reference import reference_for
from gca_core.matrix.compare import pearson

if TYPE_CHECKING:
    from gca_core.atlas.models import CellGroup
    from gca_core.haystack.context import HaystackContext
    from gca_core.haystack.models import IterationConfig, StructuredQuery
    from gca_core.haystack.reference import AtlasReference
    from gca_core.responses.reference import Answer

log = logging.getLogger(__name__)

Array = npt.NDArray[np.float64]
Member = tuple["CellGroup", float]

# responses that are tried together
MOST_PAIRS = 50


class Guide:
    """The reference response to a question, and what each group of the atlas would add to a prompt for it.

    Args:
        atlas: the measured responses.
        answer: the reference response, made from them.
        perturbation: the asked one, by its name in ``atlas.reference``.

    Attributes:
        genes: (n_genes,) symbols.
        change: (n_genes,) of the reference response.
        groups: the groups that may be in a prompt, by id; what acts against the asked perturbation may not.
        answer: the reference response with its weights and forecast.
    """

    def __init__(self, atlas: AtlasReference, answer: Answer, perturbation: str) -> None:
        self.atlas, self.answer = atlas, answer
        self.genes, self.change = atlas.genes, answer.change
        data = atlas.reference.data
        pairs = zip(data.perturbation, data.cell_type, strict=True)
        self._rows = {(data.perturbations[p], data.cell_types[t]): row for row, (p, t) in enumerate(pairs)}
        likeness = data.likeness[list(data.perturbations).index(perturbation)]
        against = {name for name, alike in zip(data.perturbations, likeness, strict=True) if alike < 0}
        self.groups = {g.group_id: g for g in atlas.groups if atlas.names[g.perturbation] not in against}

    def without(self, group_ids: Collection[str]) -> Guide:
        """The same for prompts that may not have these groups; the reference response stays."""
        kept = copy(self)
        kept.groups = {group_id: group for group_id, group in self.groups.items() if group_id not in group_ids}
        return kept

    @property
    def responses(self) -> npt.NDArray[np.floating]:
        """(n_pairs, n_genes) measured responses."""
        return self.atlas.reference.data.responses

    def row(self, group: CellGroup) -> int | None:
        """The place of a group among the responses; None where it was not read."""
        return self._rows.get((self.atlas.names.get(group.perturbation, ""), group.cell_type_id))

    def heaviest(self) -> list[CellGroup]:
        """The groups of the responses that weigh most in the reference."""
        weights = self.answer.weights
        first = np.argsort(-weights, kind="stable")[:MOST_PAIRS]
        kept = set(first[weights[first] > 0].tolist())
        return [group for group in self.groups.values() if self.row(group) in kept]

    def agreement(self, change: Array) -> float:
        """Pearson correlation of a change (n_genes,) with the reference, 0 where either is flat."""
        found = pearson(change, self.change)
        return float(found) if np.isfinite(found) else 0.0

    def weigh(self, groups: Iterable[CellGroup], room: int, target: Array | None = None) -> list[Member]:
        """Groups with weights above 0, with which their responses come nearest to a change.

        Of more responses than there is room for, those that weigh least are left out and the rest weighed anew.

        Args:
            groups: which may be in the prompt.
            room: cells that the prompt has room for.
            target: (n_genes,) the change; the reference where None.
        """
        own: dict[int, list[CellGroup]] = defaultdict(list)
        for group in groups:
            row = self.row(group)
            if row is not None and group.group_id in self.groups:
                own[row].append(group)
        rows = sorted(own)
        wanted = self.change if target is None else target
        while rows:
            design = np.asarray(self.responses[rows], dtype=np.float64)
            design -= design.mean(axis=1, keepdims=True)
            weights = nnls(design.T, wanted - wanted.mean())[0]
            order = [i for i in np.argsort(-weights, kind="stable") if weights[i] > 0]
            filled = np.cumsum([sum(map(cells_of, own[rows[i]])) for i in order])
            kept = [rows[i] for i in order[: max(1, int((filled <= room).sum()))]]
            if len(kept) == len(order):
                return [m for i in order for m in _shared_out(own[rows[i]], weights[i] / weights.max(), room)]
            rows = sorted(kept)
        return []

    def guided(self, draft: PromptDraft, room: int) -> PromptDraft:
        """The draft with its groups weighted towards the reference, and as relevant as it comes near to it.

        Groups that add nothing leave it; a draft of which none adds anything keeps them all.
        """
        members = self.weigh([group for group, _ in draft.members], room)
        return self.near(replace(draft, members=tuple(members)) if members else draft)

    def near(self, draft: PromptDraft) -> PromptDraft:
        """The draft, as relevant as the weighted mean of its responses comes near to the reference."""
        placed = [(row, weight) for group, weight in draft.members if (row := self.row(group)) is not None]
        if not placed:
            return replace(draft, relevance=0.0)
        rows, weights = zip(*placed, strict=True)
        agreement = self.agreement(np.array(weights) @ np.asarray(self.responses[list(rows)], dtype=np.float64))
        return replace(draft, relevance=max(0.0, agreement))


def guide_for(query: StructuredQuery, context: HaystackContext) -> Guide | None:
    """The guide to prompts for a question; None where the atlas has too little to estimate it from."""
    try:
        atlas, answer, asked = reference_for(query, context)
    except (CellRetrievalError, DataValidationError) as error:
        log.info("no reference response: %s", error)
        return None
    data = atlas.reference.data
    likeness = np.nan_to_num(data.likeness[list(data.perturbations).index(asked)])[data.perturbation]
    if answer.forecast is None and not answer.support.elsewhere and not (likeness >= MIN_SIMILARITY).any():
        log.info("no reference response: nothing alike, and too few pairs to learn from others")
        return None
    return Guide(atlas, answer, asked)


def first_drafts(
    pool: CandidatePool,
    config: IterationConfig,
    guide: Guide | None,
    extra: Sequence[PromptDraft] = (),
    widened: int = 0,
) -> list[PromptDraft]:
    """The prompts that need no feedback: the reference's, each strategy's, and those that somebody else proposes.

    Args:
        pool: what the atlas offers.
        config: the strategies, and the size of a prompt.
        guide: weighs their groups, where there is one.
        extra: drafts beside those of the strategies.
        widened: steps in the Cell Ontology by which the radius has grown.
    """
    wider = config.model_copy(update={"ontology_distance": config.ontology_distance + widened})
    drafts = [*run_strategies(pool, wider), *extra]
    if guide is None:
        return drafts
    room = config.prompt_cells
    first = reference_draft(guide, room) if Strategy.REFERENCE in config.strategies else None
    return [*([guide.near(first)] if first else []), *(guide.guided(draft, room) for draft in drafts)]


def reference_draft(guide: Guide, room: int) -> PromptDraft | None:
    """The draft whose groups come nearest to the reference; None where none helps.

    A response that speaks against the reference has no place in a prompt, so that the sum is an approximation.
    """
    members = guide.weigh(guide.heaviest(), room)
    if not members:
        return None
    pairs = len({guide.row(group) for group, _ in members})
    words = f"{pairs} measured responses, weighted so that they add up to the atlas's own estimate"
    return PromptDraft(Strategy.REFERENCE, tuple(members), words)


def _shared_out(groups: Sequence[CellGroup], weight: float, room: int) -> list[Member]:
    """The groups of one response, the largest that there is room for, by their cells."""
    own = sorted(groups, key=lambda group: (-group.n_cells, group.group_id))[: max(1, room // CELLS_PER_GROUP)]
    cells = sum(group.n_cells for group in own)
    return [(group, float(weight * group.n_cells / cells)) for group in own]
