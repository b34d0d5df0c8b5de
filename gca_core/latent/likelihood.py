"""Log-likelihoods of counts, written so that nothing cancels or overflows.

The negative binomial with mean mu and inverse dispersion theta is, with d = log mu - log theta,

    log p(x) = -theta softplus(d) - x softplus(-d) + lgamma(x + theta) - lgamma(theta) - lgamma(x + 1)

(the mean form of the distribution as in Lopez et al. 2018, doi:10.1038/s41592-018-0229-2, with
log(theta / (theta + mu)) = -softplus(d) and log(mu / (theta + mu)) = -softplus(-d)). At x = 0 all but the
first term vanish, so the others are taken at the nonzero counts only, the gamma terms in double
precision because lgamma(x + theta) - lgamma(theta) loses all digits in single precision once theta is
large.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import softplus


@dataclass(frozen=True)
class CountTensor:
    """Counts of some cells, with the places of the nonzero ones.

    Args:
        dense: (cells, genes) float32.
        positions: (nonzero,) int64, indices into the flattened ``dense``.
        values: (nonzero,) float32, the counts there.
    """

    dense: Tensor
    positions: Tensor
    values: Tensor

    @classmethod
    def from_dense(cls, dense: Tensor) -> CountTensor:
        """Find the nonzero counts of ``dense`` (cells, genes)."""
        flat = dense.reshape(-1)
        positions = flat.nonzero().reshape(-1)
        return cls(dense, positions, flat.index_select(0, positions))


@dataclass(frozen=True)
class CountParameters:
    """Parameters of the counts' distribution.

    Args:
        log_mean: (cells, genes), log of the expected counts at the cell's library size.
        log_theta: (genes,), log of the inverse dispersion.
        zero_logits: (cells, genes), logits of the chance that a count is a technical zero; None without
            zero inflation.
    """

    log_mean: Tensor
    log_theta: Tensor
    zero_logits: Tensor | None = None


class CountLikelihood(Protocol):
    """Log-likelihood per cell in nats, summed over genes."""

    def __call__(self, counts: CountTensor, parameters: CountParameters) -> Tensor:
        """Return (cells,)."""
        ...


def negative_binomial(counts: CountTensor, parameters: CountParameters) -> Tensor:
    """Negative binomial log-likelihood per cell, (cells,)."""
    log_theta = parameters.log_theta
    ratio = parameters.log_mean - log_theta
    everywhere = -(softplus(ratio) * log_theta.exp()).sum(dim=1)
    return everywhere + _sum_per_cell(counts, _at_nonzero(counts, ratio, log_theta))


def zero_inflated_negative_binomial(counts: CountTensor, parameters: CountParameters) -> Tensor:
    """Zero-inflated negative binomial log-likelihood per cell, (cells,).

    With z the logit of a technical zero and n the negative binomial's log p(0), the mixture has
    log p(0) = softplus(n - z) - softplus(-z), and a count above zero has the negative binomial's log p
    plus log(1 - sigmoid(z)) = -z - softplus(-z).
    """
    zero_logits = parameters.zero_logits
    if zero_logits is None:
        raise ValueError("the zero-inflated likelihood needs the logits of technical zeros")
    log_theta = parameters.log_theta
    ratio = parameters.log_mean - log_theta
    less_zero = -softplus(ratio) * log_theta.exp() - zero_logits
    as_if_zero = softplus(less_zero)
    correction = (less_zero - as_if_zero).reshape(-1).index_select(0, counts.positions)
    nonzero = correction + _at_nonzero(counts, ratio, log_theta)
    return (as_if_zero - softplus(-zero_logits)).sum(dim=1) + _sum_per_cell(counts, nonzero)


def _at_nonzero(counts: CountTensor, ratio: Tensor, log_theta: Tensor) -> Tensor:
    """What nonzero counts add to the negative binomial's log p(0), (nonzero,)."""
    theta = log_theta.index_select(0, counts.positions % counts.dense.shape[1]).double().exp()
    x = counts.values.double()
    gamma = torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
    return gamma.float() - counts.values * softplus(-ratio.reshape(-1).index_select(0, counts.positions))


def _sum_per_cell(counts: CountTensor, terms: Tensor) -> Tensor:
    cells, genes = counts.dense.shape
    rows = torch.div(counts.positions, genes, rounding_mode="floor")
    return torch.zeros(cells, dtype=terms.dtype, device=terms.device).index_add(0, rows, terms)


LIKELIHOODS: Mapping[str, CountLikelihood] = {"nb": negative_binomial, "zinb": zero_inflated_negative_binomial}
