"""How good the reference is on an atlas, beside answers that need no method, by what an answer stands on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import BaseModel
from scipy.stats import rankdata
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from gca_core.matrix.compare import pearson as correlation
from gca_core.responses.covariance import Covariance
from gca_core.responses.forecast import FEWEST, MANY
from gca_core.responses.left_out import LeftOut, Support, pearson, usable
from gca_core.responses.measured import Array
from gca_core.responses.models import Expected, Forecast
from gca_core.responses.reference import Reference, overlaps

REFERENCE, NO_CHANGE = "reference", "no change"
SUPPORTS = tuple(Support(elsewhere, alongside) for elsewhere in (True, False) for alongside in (True, False))
RESAMPLES = 2000


class Row(BaseModel, frozen=True):
    """One way of answering: its mean accuracy over the left-out pairs, and how far the reference is ahead of it.

    Attributes:
        ahead: mean difference of Pearson, reference minus this one, over the pairs.
        ahead_low: lower end of its paired 95 % bootstrap interval.
        ahead_high: its upper end.
    """

    answer: str
    pearson: float
    overlap: float
    ahead: float
    ahead_low: float
    ahead_high: float


class Regime(BaseModel, frozen=True):
    """Left-out pairs with one kind of support.

    Attributes:
        coverage: share of the pairs whose true Pearson lies in the interval that was forecast.
        sharpness: Spearman correlation of forecast and true Pearson over the pairs; None below 60 pairs.
        forecast: (n_pairs,) Pearson that was forecast, with its interval.
        truth: (n_pairs,) Pearson that the reference reached.
    """

    support: str
    n_pairs: int
    rows: tuple[Row, ...]
    coverage: float
    sharpness: float | None
    forecast: tuple[Expected, ...]
    truth: tuple[float, ...]


def backtest(reference: Reference) -> list[Regime]:
    """Left-out accuracy for each support of which there are pairs enough.

    The shares are those fitted to all pairs of the panel; the forecast of a pair is made from all others.
    """
    found = []
    with threadpool_limits(1):
        for support in SUPPORTS:
            left = reference.left_out(support)
            if len(left.pairs) >= FEWEST:
                weights = {REFERENCE: left.weights} | plain_answers(reference.panel, left, support)
                found.append(compare(reference.panel, left, str(support), weights, reference.forecasts(support)))
    return found


def compare(
    covariance: Covariance, left: LeftOut, support: str, weights: Mapping[str, Array], forecasts: Sequence[Forecast]
) -> Regime:
    """The accuracy of several answers to the same left-out pairs, the reference first.

    Args:
        weights: by answer, (m, n_pairs) of the responses at unit length.
        forecasts: (m,) of the reference.
    """
    accuracy = {name: pearson(found, left.pairs, covariance.gram) for name, found in weights.items()}
    shared = {name: overlaps(found, left.pairs, covariance) for name, found in weights.items()}
    ours = accuracy[REFERENCE]
    accuracy[NO_CHANGE] = shared[NO_CHANGE] = np.zeros(len(ours))
    inside = [f.pearson.low <= value <= f.pearson.high for f, value in zip(forecasts, ours, strict=True)]
    expected = np.array([f.pearson.value for f in forecasts])
    return Regime(
        support=support,
        n_pairs=len(ours),
        rows=tuple(_row(name, found, shared[name], ours) for name, found in accuracy.items()),
        coverage=float(np.mean(inside)),
        forecast=tuple(f.pearson for f in forecasts),
        truth=tuple(ours.tolist()),
        sharpness=correlation(rankdata(expected), rankdata(ours)) if len(ours) >= MANY else None,
    )


def plain_answers(covariance: Covariance, left: LeftOut, support: Support) -> dict[str, Array]:
    """By answer, (m, n_pairs) weights at unit length, made of what isn't left out; nothing where there is nothing."""
    data = covariance.data
    p, t = data.perturbation, data.cell_type
    may = usable(covariance, left.pairs, support)
    same, own = p[None, :] == p[left.pairs][:, None], t[None, :] == t[left.pairs][:, None]
    away = np.where(may & same, data.distances[np.ix_(t[left.pairs], t)], np.inf)
    nearest = np.isfinite(away) & (away <= away.min(axis=1, keepdims=True))
    chosen = {"mean shift of other types": may & same, "nearest type": nearest, "type's mean response": may & own}
    return {
        name: mask / np.maximum(mask.sum(axis=1, keepdims=True), 1) * covariance.length
        for name, mask in chosen.items()
        if mask.any()
    }


def _row(name: str, accuracy: Array, shared: Array, ours: Array) -> Row:
    ahead = ours - accuracy
    drawn = np.random.default_rng(0).integers(0, len(ahead), (RESAMPLES, len(ahead)))
    low, high = np.quantile(ahead[drawn].mean(axis=1), (0.025, 0.975))
    return Row(
        answer=name,
        pearson=float(accuracy.mean()),
        overlap=float(shared.mean()),
        ahead=float(ahead.mean()),
        ahead_low=float(low),
        ahead_high=float(high),
    )
