"""A prompt that stands for the reference response: the groups whose weighted sum comes nearest to it."""

from __future__ import annotations

import logging
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import nnls

from gca_core.errors import CellRetrievalError, DataValidationError
from gca_core.haystack.models import ReferenceChange, Strategy
from gca_core.haystack.prompts.strategies import PromptDraft
from gca_core.haystack.reference import as_reference, reference_for

if TYPE_CHECKING:
    from gca_core.atlas.models import CellGroup
    from gca_core.haystack.context import HaystackContext
    from gca_core.haystack.models import IterationConfig, StructuredQuery
    from gca_core.haystack.reference import AtlasReference
    from gca_core.responses.reference import Answer

log = logging.getLogger(__name__)

# responses that are tried together, as many as a prompt of 1,000 cells has room for groups
MOST_PAIRS = 50


def reference_drafts(
    query: StructuredQuery, config: IterationConfig, context: HaystackContext
) -> tuple[list[PromptDraft], ReferenceChange]:
    """The draft of the reference response to a question, where that strategy is switched on, and the response itself.

    Both are empty where the atlas has nothing to estimate it from.
    """
    try:
        atlas, answer = reference_for(query, context)
    except (CellRetrievalError, DataValidationError) as error:
        log.info("no reference response: %s", error)
        return [], ReferenceChange()
    draft = reference_draft(atlas, answer) if Strategy.REFERENCE in config.strategies else None
    return [draft] if draft else [], as_reference(atlas.genes, answer.change)


def reference_draft(atlas: AtlasReference, answer: Answer) -> PromptDraft | None:
    """The draft whose groups, at weights of 0 or more, add up to the reference best; None where none helps.

    A response that speaks against the reference has no place in a prompt, so that the sum is an approximation.

    Args:
        atlas: the measured responses.
        answer: the reference response, made from them.
    """
    data = atlas.reference.data
    heaviest = np.argsort(-answer.weights, kind="stable")[:MOST_PAIRS]
    rows = np.sort(heaviest[answer.weights[heaviest] > 0])
    if not len(rows):
        return None
    weights, _ = nnls(data.responses[rows].T.astype(np.float64), answer.change)
    largest = weights.max(initial=0.0)
    groups = _groups_of_pairs(atlas)
    members: list[tuple[CellGroup, float]] = []
    for row, weight in zip(rows, weights, strict=True):
        own = groups[data.perturbations[data.perturbation[row]], data.cell_types[data.cell_type[row]]]
        cells = sum(group.n_cells for group in own)
        members += [(group, float(weight / largest * group.n_cells / cells)) for group in own if weight > 0]
    if not members:
        return None
    return PromptDraft(
        Strategy.REFERENCE,
        tuple(members),
        f"{int((weights > 0).sum())} measured responses, weighted so that they add up to the atlas's own estimate",
    )


def _groups_of_pairs(atlas: AtlasReference) -> dict[tuple[str, str], list[CellGroup]]:
    found: dict[tuple[str, str], list[CellGroup]] = defaultdict(list)
    for group in atlas.groups:
        found[atlas.names[group.perturbation], group.cell_type_id].append(group)
    return found
