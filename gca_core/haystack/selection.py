"""What to expect of a prompt: learned on pairs of the same atlas whose response is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gca_core import io
from gca_core.grounding.score import score_prediction
from gca_core.haystack.question.names import expectation_of
from gca_core.knowledge.bundled.genetic import resolve_perturbation
from gca_core.matrix.compare import pearson
from gca_core.responses.left_out import Support, usable
from gca_core.responses.models import Selection
from gca_core.responses.selection import learn

if TYPE_CHECKING:
    from gca_core.grounding.models import GroundingScore
    from gca_core.haystack.context import HaystackContext
    from gca_core.haystack.models import IterationConfig
    from gca_core.haystack.reference import AtlasReference
    from gca_core.responses.measured import Array

REFERENCE = "reference"
PARTS = ("pathway", "target", "network")
# left-out pairs, and prompts of a single response for each; a score of a new atlas takes 0.1 s
MOST_PAIRS, HEAVIEST, OTHERS = 20, 3, 2
VERSION = 1


def terms_of(agreement: float, forecast: float, score: GroundingScore | None) -> dict[str, float | None]:
    """What the accuracy of a prediction is expected by: its part of the reference's, and the parts of its score."""
    parts = {part.name: part.value for part in score.components} if score else {}
    return {REFERENCE: agreement * forecast} | {name: parts.get(name) for name in PARTS}


def learn_selection(
    atlas: AtlasReference, support: Support, config: IterationConfig, context: HaystackContext
) -> Selection | None:
    """How the accuracy of a prompt follows from its agreement with the reference and its grounding.

    Known pairs are left out with the support that a question has. For each, prompts are made of what is left: the
    reference, single responses, the mean of the same perturbation; each is scored as a prediction would be. Kept with
    the atlas's content. None where fewer than five pairs can be left out.
    """
    knowledge = context.knowledge
    asked = [VERSION, *support, config.grounding.model_dump(mode="json"), config.score_threshold, knowledge.version]
    key = io.content_hash([atlas.key, *asked])
    kept = atlas.cache.get(key)
    if kept is not None:
        return Selection.model_validate_json(kept.content)
    found = _learn(atlas, support, config, context)
    if found is not None:
        atlas.cache.put(key, found.model_dump_json().encode())
    return found


def _learn(
    atlas: AtlasReference, support: Support, config: IterationConfig, context: HaystackContext
) -> Selection | None:
    reference = atlas.reference
    covariance, left = reference.panel, reference.left_out(support)
    data, forecasts = covariance.data, reference.forecasts(support) if len(left.pairs) else []
    may = usable(covariance, left.pairs, support)
    scores: dict[tuple[str, bytes], GroundingScore | None] = {}

    def score(change: Array, perturbation: str) -> GroundingScore | None:
        key = (perturbation, change.tobytes())
        if key not in scores:
            entry = resolve_perturbation(perturbation, context.catalogue)
            scores[key] = (
                score_prediction(change, atlas.genes, expectation_of(entry), context.knowledge, config.grounding)
                if entry
                else None
            )
        return scores[key]

    rows = []
    n = len(left.pairs)
    for i in np.unique(np.linspace(0, n - 1, min(n, MOST_PAIRS)).astype(int)) if n else ():
        pair, weights = left.pairs[i], left.weights[i]
        estimate = (weights / covariance.length) @ data.responses
        others = np.flatnonzero(may[i])
        order = others[np.argsort(-weights[others], kind="stable")]
        spread = np.linspace(HEAVIEST, len(order) - 1, OTHERS).astype(int) if len(order) > HEAVIEST else ()
        single = dict.fromkeys([*order[:HEAVIEST].tolist(), *(order[j] for j in spread)])
        same = others[data.perturbation[others] == data.perturbation[pair]]
        prompts = [estimate, *(np.asarray(data.responses[j], dtype=np.float64) for j in single)]
        prompts += [data.responses[same].mean(axis=0, dtype=np.float64)] if len(same) > 1 else []
        name = data.perturbations[data.perturbation[pair]]
        for change in prompts:
            own = score(change, name)
            terms = terms_of(pearson(change, estimate), forecasts[i].pearson.value, own)
            known = {k: np.nan if v is None else v for k, v in terms.items()}
            total = np.nan if own is None or own.score is None else own.score
            rows.append((int(pair), pearson(change, data.responses[pair]), total, known))
    if not rows:
        return None
    return learn(
        {name: np.array([known[name] for *_, known in rows]) for name in (REFERENCE, *PARTS)},
        np.nan_to_num(np.array([accuracy for _, accuracy, _, _ in rows])),
        np.array([pair for pair, *_ in rows]),
        np.array([total for _, _, total, _ in rows]),
        config.score_threshold,
    )
