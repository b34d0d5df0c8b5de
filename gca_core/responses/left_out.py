"""Leaving known pairs out: what the others would have said of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gca_core.responses.covariance import TINY, Covariance, Mask, Shares
from gca_core.responses.measured import Array, Indices

# left-out questions of a kind that costs a small inverse each
SAMPLED = 100


class Support(NamedTuple):
    """What an answer stands on.

    Attributes:
        elsewhere: the perturbation was measured in another type.
        alongside: another perturbation was measured in the type.
    """

    elsewhere: bool
    alongside: bool

    def __str__(self) -> str:
        first = "the perturbation in other types" if self.elsewhere else "other perturbations"
        if self.elsewhere:
            return f"{first} and other perturbations in the type" if self.alongside else first
        return f"{first} in the type" if self.alongside else f"{first} in other types"


@dataclass(frozen=True)
class LeftOut:
    """Predictions of known pairs by others.

    Attributes:
        pairs: (m,) the pairs that were left out.
        weights: (m, n_pairs) of the measured responses at unit length; 0 for a pair itself and all left out with it.
        uncertainty: (m,) variance of the prediction, of 1 and more before anything was measured.
    """

    pairs: Indices
    weights: Array
    uncertainty: Array

    def size(self, gram: Array) -> Array:
        """(m,) length of the predictions; the surer, the nearer to 1."""
        return np.asarray(np.sqrt(np.maximum(np.einsum("ij,ij->i", self.weights @ gram, self.weights), 0)))

    def pearson(self, gram: Array) -> Array:
        """(m,) Pearson correlation of prediction and truth over genes; 0 where nothing is predicted."""
        return pearson(self.weights, self.pairs, gram)


def pearson(weights: Array, pairs: Indices, gram: Array) -> Array:
    """(m,) correlation of weighted sums (m, n_pairs) of responses with the pairs' own."""
    carried = weights @ gram
    size = np.sqrt(np.maximum(np.einsum("ij,ij->i", carried, weights), TINY))
    return np.asarray(np.clip(carried[np.arange(len(pairs)), pairs] / size, -1, 1))


def support_of(covariance: Covariance, perturbation: int, cell_type: int) -> Support:
    """What a question stands on beside a measurement of the pair itself."""
    p, t = covariance.data.perturbation, covariance.data.cell_type
    return Support(
        bool(((p == perturbation) & (t != cell_type)).any()), bool(((t == cell_type) & (p != perturbation)).any())
    )


def usable(covariance: Covariance, pairs: Indices, support: Support) -> Mask:
    """(m, n_pairs) which pairs may speak where each of ``pairs`` is left out with this support left to it."""
    p, t = covariance.data.perturbation, covariance.data.cell_type
    other, elsewhere = p[None, :] != p[pairs][:, None], t[None, :] != t[pairs][:, None]
    if support.elsewhere:
        return np.asarray(other | elsewhere if support.alongside else elsewhere)
    return np.asarray(other if support.alongside else other & elsewhere)


def leave_out(covariance: Covariance, support: Support, shares: Shares) -> LeftOut:
    """Every known pair predicted from what is left when only this support is left to it.

    A pair is left out alone, with all of its type, with all of its perturbation, or with both. The likeness of
    perturbations as measured never comes from the type that is asked about, so it knows nothing of what is left out.
    """
    data = covariance.data
    p, t = data.perturbation, data.cell_type
    of_same, of_type = np.bincount(p)[p], np.bincount(t)[t]
    able = (of_same > 1 if support.elsewhere else of_same > 0) & (of_type > 1 if support.alongside else of_type > 0)
    if not support.elsewhere and not support.alongside:
        able = _sample(len(data) > of_same + of_type - 1, SAMPLED)
    found = list(_blocks(covariance, support, shares, able))
    if not found:
        return LeftOut(np.zeros(0, dtype=np.int64), np.zeros((0, len(data))), np.zeros(0))
    order = np.argsort(np.concatenate([part.pairs for part in found]), kind="stable")
    return LeftOut(
        np.concatenate([part.pairs for part in found])[order],
        np.concatenate([part.weights for part in found])[order],
        np.concatenate([part.uncertainty for part in found])[order],
    )


def _blocks(covariance: Covariance, support: Support, shares: Shares, able: Mask) -> Iterator[LeftOut]:
    p, t = covariance.data.perturbation, covariance.data.cell_type
    noise = covariance.noise(shares)
    if support.elsewhere:
        for target in np.unique(t[able]):
            inverse = covariance.inverse(int(target), shares)
            own = np.flatnonzero(able & (t == target))
            if support.alongside:
                yield _alone(inverse, noise, own)
            else:
                yield _without(inverse, noise, np.flatnonzero(t == target), own)
        return
    inverse = covariance.inverse(None, shares)
    if support.alongside:
        for name in np.unique(p[able]):
            block = np.flatnonzero(p == name)
            yield _without(inverse, noise, block, block[able[block]])
        return
    for q in np.flatnonzero(able):
        yield _without(inverse, noise, np.flatnonzero((p == p[q]) | (t == t[q])), np.array([q]))


def _alone(inverse: Array, noise: Array, wanted: Indices) -> LeftOut:
    """Prediction of each pair from all others."""
    spread = 1.0 / np.diag(inverse)[wanted]
    weights = -spread[:, None] * inverse[wanted]
    weights[np.arange(len(wanted)), wanted] = 0
    return LeftOut(wanted, weights, spread - noise[wanted])


def _without(inverse: Array, noise: Array, block: Indices, wanted: Indices) -> LeftOut:
    """Prediction of some pairs of a block from all pairs outside it."""
    place = np.searchsorted(block, wanted)
    # the posterior covariance of the block given the rest
    spread = np.linalg.inv(inverse[np.ix_(block, block)])[place]
    weights = -spread @ inverse[block]
    weights[:, block] = 0
    return LeftOut(wanted, weights, spread[np.arange(len(wanted)), place] - noise[wanted])


def _sample(mask: Mask, most: int) -> Mask:
    """At most so many of those named, spread evenly."""
    places = np.flatnonzero(mask)
    if len(places) <= most:
        return mask
    kept = np.zeros_like(mask)
    kept[places[np.linspace(0, len(places) - 1, most).astype(int)]] = True
    return kept
