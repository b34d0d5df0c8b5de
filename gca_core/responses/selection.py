"""What tells a good prompt from a bad one, learned where the answer is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import nnls
from scipy.special import stdtrit

from gca_core.responses.forecast import COVERAGE, FEWEST, expect
from gca_core.responses.measured import Array, Indices
from gca_core.responses.models import Selection


def learn(
    terms: Mapping[str, Array], accuracy: Array, pair: Indices, score: Array, threshold: float
) -> Selection | None:
    """Learn from prompts whose accuracy is known; None where they are of fewer than five pairs.

    The first term is always used. Another is added if the squared error of left-out pairs falls by more than twice its
    standard error, the best one first.

    Args:
        terms: (n_prompts,) each; NaN where a value is unknown.
        accuracy: (n_prompts,) Pearson with the truth.
        pair: (n_prompts,) the left-out pair that each is a prompt for.
        score: (n_prompts,) grounding score, NaN where there is none.
        threshold: grounding score of which the accuracy is asked.
    """
    if len(np.unique(pair)) < FEWEST:
        return None
    centres = {name: float(np.nanmean(v)) if np.isfinite(v).any() else 0.0 for name, v in terms.items()}
    centred = {name: np.nan_to_num(values - centres[name]) for name, values in terms.items()}
    used, *others = terms
    kept = [used]
    guesses = _left_out(centred, kept, accuracy, pair)
    while others:
        tried = {name: _left_out(centred, [*kept, name], accuracy, pair) for name in others}
        gains = {n: _by_pair((accuracy - guesses) ** 2 - (accuracy - g) ** 2, pair) for n, g in tried.items()}
        name = max(others, key=lambda n: float(gains[n].mean()))
        if gains[name].mean() <= 2 * gains[name].std(ddof=1) / np.sqrt(len(gains[name])):
            break
        kept, guesses = [*kept, name], tried[name]
        others.remove(name)
    level, weights = _fit(centred, kept, accuracy)
    chosen = _first_of(guesses, pair)
    errors = accuracy[chosen] - guesses[chosen]
    reach = stdtrit(len(errors) - 1, (1 + COVERAGE) / 2) * np.sqrt(errors @ errors / len(errors))
    scored = np.isfinite(score)
    return Selection(
        level=level,
        weights=dict.fromkeys(terms, 0.0) | dict(zip(kept, weights.tolist(), strict=True)),
        centres=centres,
        reach=float(reach),
        n_pairs=len(chosen),
        n_prompts=len(accuracy),
        chosen=float(accuracy[chosen].mean()),
        by_score=float(accuracy[_first_of(np.nan_to_num(score), pair)].mean()) if scored.any() else None,
        best=float(accuracy[_first_of(accuracy, pair)].mean()),
        at_threshold=expect(score[scored, None], accuracy[scored], np.array([threshold]))[0]
        if scored.sum() >= FEWEST
        else None,
    )


def _fit(centred: Mapping[str, Array], kept: Sequence[str], accuracy: Array) -> tuple[float, Array]:
    """The mean accuracy, and weights of 0 or more for the terms."""
    design, level = np.column_stack([centred[name] for name in kept]), float(accuracy.mean())
    middle = design.mean(axis=0)
    weights = nnls(design - middle, accuracy - level)[0]
    return level - float(middle @ weights), weights


def _left_out(centred: Mapping[str, Array], kept: Sequence[str], accuracy: Array, pair: Indices) -> Array:
    """What the prompts of the other pairs say of each pair's own, (n_prompts,)."""
    guesses = np.empty(len(accuracy))
    for own in (pair == q for q in np.unique(pair)):
        level, weights = _fit({name: centred[name][~own] for name in kept}, kept, accuracy[~own])
        guesses[own] = level + np.column_stack([centred[name][own] for name in kept]) @ weights
    return guesses


def _by_pair(values: Array, pair: Indices) -> Array:
    return np.array([values[pair == q].mean() for q in np.unique(pair)])


def _first_of(values: Array, pair: Indices) -> Indices:
    """Of each pair, the prompt with the highest value."""
    return np.array([np.flatnonzero(pair == q)[values[pair == q].argmax()] for q in np.unique(pair)])
