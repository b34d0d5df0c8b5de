"""The atlas's own best estimate of a response, and how good it will be."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from gca_core.errors import DataValidationError
from gca_core.matrix.compare import de_overlap
from gca_core.responses.covariance import Covariance, Shares
from gca_core.responses.forecast import FEWEST, expect
from gca_core.responses.left_out import LeftOut, Support, leave_out, support_of
from gca_core.responses.measured import Array, Indices, Measured
from gca_core.responses.models import Expected, Forecast

# pairs from which the shares are fitted, and from which an answer is made; both cost their cube
PANEL, MOST_PAIRS = 400, 1500
TRIED: dict[str, tuple[float, ...]] = {
    "noise": (0.1, 0.3, 1.0, 3.0, 10.0),
    "common": (0.0, 0.05, 0.1, 0.2, 0.4),
    "across": (0.0, 0.1, 0.25, 0.5, 0.8),
    "catalogue": (0.02, 0.1, 0.3, 0.6),
    "reach": (0.05, 0.1, 0.2, 0.5, 1.0),
    "cells": (0.0, 50.0, 100.0, 200.0, 500.0),
}
# of mean Pearson that makes another value worth it
GAIN = 1e-4
OVERLAP = 50


@dataclass(frozen=True)
class Answer:
    """An estimated response.

    Attributes:
        change: (n_genes,) estimated change, on the scale of the measured ones.
        weights: (n_pairs,) of the measured responses in it.
        support: what it stands on.
        forecast: the accuracy to expect; None where the atlas has too few pairs to say.
    """

    change: Array
    weights: Array
    support: Support
    forecast: Forecast | None


class Reference:
    """Estimates of responses from what was measured.

    The shares are fitted once for each kind of support, by leaving known pairs out. A large atlas is fitted on a part
    of its perturbations, and answers from the pairs nearest to the question.

    Args:
        data: what was measured.

    Attributes:
        fitted: the shares by support, as far as they were asked for.
    """

    def __init__(self, data: Measured) -> None:
        self.data = data
        self.fitted: dict[Support, Shares] = {}
        self._left_out: dict[Support, tuple[LeftOut, Array]] = {}

    @cached_property
    def panel(self) -> Covariance:
        """The pairs that are left out to fit and to forecast."""
        return Covariance(_panel(self.data))

    def shares(self, support: Support) -> Shares:
        """What was fitted for this support; the documented defaults where fewer than five pairs can be left out."""
        if support not in self.fitted:
            self.fitted[support] = fit(self.panel, support)
        return self.fitted[support]

    def left_out(self, support: Support) -> LeftOut:
        """The panel's pairs, each predicted as if only this support were left to it."""
        return self._predicted(support)[0]

    def overlaps(self, support: Support) -> Array:
        """(m,) share of the 50 largest changes that a left-out prediction has in common with the truth."""
        return self._predicted(support)[1]

    def answer(self, perturbation: str, cell_type: str) -> Answer:
        """The response of a type to a perturbation, whether it was measured or not: its own measure isn't used.

        Args:
            perturbation: one of ``data.perturbations``.
            cell_type: one of ``data.cell_types``.

        Raises:
            DataValidationError: an unknown name, or nothing else was measured.
        """
        for name, known in ((perturbation, self.data.perturbations), (cell_type, self.data.cell_types)):
            if name not in known:
                raise DataValidationError(f"{name!r} is not among {', '.join(map(str, known))}")
        p, t = list(self.data.perturbations).index(perturbation), list(self.data.cell_types).index(cell_type)
        rows = _nearest(self.data, p, t)
        if not len(rows):
            raise DataValidationError("no other response was measured")
        part = self.data.take(rows, p, t)
        p, t = list(part.perturbations).index(perturbation), list(part.cell_types).index(cell_type)
        covariance = Covariance(part)
        support = support_of(covariance, p, t)
        weights, uncertainty = weigh(covariance, p, t, self.shares(support))
        size = math.sqrt(max(float(weights @ covariance.gram @ weights), 0.0))
        # the length of a response, by the same weights
        lengths = np.log(covariance.length)
        typical = float(lengths.mean())
        guess = typical + float(weights @ (lengths - typical))
        length = math.exp(min(max(guess, float(lengths.min())), float(lengths.max())))
        whole = np.zeros(len(self.data))
        whole[rows] = length * weights / covariance.length
        return Answer(
            change=np.asarray(whole[rows] @ part.responses, dtype=np.float64),
            weights=whole,
            support=support,
            forecast=self._forecast(support, np.array([size, uncertainty])),
        )

    def forecasts(self, support: Support) -> list[Forecast]:
        """What would have been forecast for each left-out pair, from all others."""
        features, accuracy, shared = self.known(support)
        others = ~np.eye(len(accuracy), dtype=bool)
        return [make_forecast(support, features[o], accuracy[o], shared[o], features[i]) for i, o in enumerate(others)]

    def _forecast(self, support: Support, asked: Array) -> Forecast | None:
        known = self.known(support)
        return None if len(known[0]) < FEWEST else make_forecast(support, *known, asked)

    def known(self, support: Support) -> tuple[Array, Array, Array]:
        """Features, Pearson and overlap of the left-out pairs."""
        left, shared = self._predicted(support)
        return features_of(left, self.panel), left.pearson(self.panel.gram), shared

    def _predicted(self, support: Support) -> tuple[LeftOut, Array]:
        if support not in self._left_out:
            shares = self.shares(support)
            with threadpool_limits(1):
                left = leave_out(self.panel, support, shares)
                self._left_out[support] = (left, overlaps(left.weights, left.pairs, self.panel))
        return self._left_out[support]


def weigh(covariance: Covariance, p: int, t: int, shares: Shares) -> tuple[Array, float]:
    """Weights of the responses at unit length in the answer to a pair that isn't among them, and its variance."""
    target = t if support_of(covariance, p, t).elsewhere else None
    alike, near = covariance.between(target, shares)
    cross = alike[p, covariance.data.perturbation] * near[t, covariance.data.cell_type]
    weights = cross @ covariance.inverse(target, shares)
    return weights, float(alike[p, p] * near[t, t] - cross @ weights)


def fit(covariance: Covariance, support: Support, start: Shares = Shares()) -> Shares:  # noqa: B008
    """The shares with which left-out pairs are predicted best, by their mean Pearson correlation.

    One share after the other goes to the next value as long as that helps.
    """
    data = covariance.data
    fixed = {"catalogue"} if not support.elsewhere else set()
    fixed |= {"across", "reach"} if len(np.unique(data.cell_type)) == 1 else set()
    fixed |= {"common", "catalogue"} if len(np.unique(data.perturbation)) == 1 else set()
    fixed |= {"cells"} if data.n_cells is None else set()

    def score(shares: Shares) -> float:
        return float(leave_out(covariance, support, shares).pearson(covariance.gram).mean())

    if len(leave_out(covariance, support, start).pairs) < FEWEST:
        return start
    # matrices this small gain nothing from threads, and lose much where other work is going on
    with threadpool_limits(1):
        best, reached = start, score(start)
        improved = True
        while improved:
            improved = False
            for name, values in TRIED.items():
                for step in (1, -1) if name not in fixed else ():
                    while 0 <= (place := values.index(getattr(best, name)) + step) < len(values):
                        tried = replace(best, **{name: values[place]})
                        found = score(tried)
                        if found <= reached + GAIN:
                            break
                        best, reached, improved = tried, found, True
    return best


def overlaps(weights: Array, pairs: Indices, covariance: Covariance) -> Array:
    """(m,) overlap at 50 of weighted sums of the responses at unit length with the pairs' own."""
    responses = covariance.data.responses
    scaled = (weights / covariance.length).astype(responses.dtype)
    return np.array([de_overlap(row @ responses, responses[q], OVERLAP) for row, q in zip(scaled, pairs, strict=True)])


def features_of(left: LeftOut, covariance: Covariance) -> Array:
    """(m, 2) what the accuracy of a prediction depends on: its length and its variance."""
    return np.column_stack([left.size(covariance.gram), left.uncertainty])


def make_forecast(support: Support, features: Array, accuracy: Array, overlap: Array, asked: Array) -> Forecast:
    """The accuracy to expect of features, by those of left-out pairs with their accuracies."""
    found, n = expect(features, accuracy, asked)
    shared: Expected = expect(features, overlap, asked, lowest=0.0)[0]
    return Forecast(pearson=found, overlap=shared, support=str(support), n_pairs=n)


def _panel(data: Measured) -> Measured:
    """All pairs, or those of perturbations spread evenly over the atlas."""
    if len(data) <= PANEL:
        return data
    names = np.unique(data.perturbation)
    kept = np.ones(len(data), dtype=bool)
    for n in range(len(names), 0, -1):
        chosen = names[np.linspace(0, len(names) - 1, n).astype(int)]
        kept = np.isin(data.perturbation, chosen)
        if kept.sum() <= PANEL:
            break
    return data.take(np.flatnonzero(kept)[:PANEL])


def _nearest(data: Measured, p: int, t: int) -> Indices:
    """The pairs nearest to a question, without the pair itself, in their order."""
    other = np.flatnonzero((data.perturbation != p) | (data.cell_type != t))
    if len(other) <= MOST_PAIRS:
        return other
    shares = Shares()
    alike = np.where(data.perturbation == p, 1.0, np.nan_to_num(data.likeness[p, data.perturbation]))
    near = np.exp(-data.distances[t, data.cell_type] / shares.reach)
    score = (shares.common + (1 - shares.common) * alike) * (shares.across + (1 - shares.across) * near)
    return np.sort(other[np.argsort(-score[other], kind="stable")[:MOST_PAIRS]])
