"""How good an answer will be, by how good the same kind of answer was for known pairs."""

from __future__ import annotations

import numpy as np
from scipy.special import stdtrit

from gca_core.responses.measured import Array
from gca_core.responses.models import Expected

COVERAGE = 0.9
# of left-out pairs: fewer say nothing; with fewer than some, features fit noise (simulated atlas, seven pairs: 68 % of
# the true values in the 90 % interval, 83 % with the mean alone); from many on, quantiles are read off
FEWEST, SOME, MANY = 5, 20, 60
RIDGES = (0.0, 0.1, 1.0, 10.0)


def expect(features: Array, accuracy: Array, asked: Array, lowest: float = -1.0) -> tuple[Expected, int]:
    """The accuracy to expect of a question.

    A ridge regression of the accuracy on the features, its strength, up to the mean alone, by leaving pairs out; with
    fewer than 20 pairs their mean. The interval is that of the left-out errors: of those pairs whose expected accuracy
    is nearest, where there are many.

    Args:
        features: (n_pairs, n_features) of left-out pairs.
        accuracy: (n_pairs,) of them.
        asked: (n_features,) of the question.
        lowest: the lowest accuracy there is; the highest is 1.

    Returns:
        the expectation, and the number of pairs that it rests on.
    """
    n = len(accuracy)
    centre, spread = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-9)
    design, mean = (features - centre) / spread, accuracy.mean()
    found = []
    for ridge in (*(RIDGES if n >= SOME else ()), np.inf):
        solved = np.zeros((design.shape[1], n))
        if np.isfinite(ridge):
            solved = np.linalg.solve(design.T @ design + (ridge + 1e-9) * n * np.eye(design.shape[1]), design.T)
        slopes = solved @ accuracy
        # the diagonal of the hat matrix gives the left-out errors
        leverage = np.einsum("ij,ji->i", design, solved) + 1.0 / n
        errors = (accuracy - mean - design @ slopes) / np.maximum(1 - leverage, 1e-9)
        found.append((float(errors @ errors), -ridge, slopes, accuracy - errors, errors))
    _, _, slopes, guesses, errors = min(found, key=lambda f: f[:2])
    # beyond what was seen there is nothing to go by
    place = np.clip((asked - centre) / spread, design.min(axis=0), design.max(axis=0))
    value = float(mean + place @ slopes)
    if n < MANY:
        reach = float(stdtrit(n - 1, (1 + COVERAGE) / 2) * np.sqrt(errors @ errors / n))
        low, high, used = value - reach, value + reach, n
    else:
        used = max(MANY, n // 3)
        near = np.sort(errors[np.argsort(np.abs(guesses - value), kind="stable")[:used]])
        tail = int((1 - COVERAGE) / 2 * (used + 1))
        low, high = value + near[tail - 1], value + near[used - tail]
    bounded = np.clip([value, low, high], lowest, 1.0)
    return Expected(value=float(bounded[0]), low=float(bounded[1]), high=float(bounded[2])), used
