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

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.nn.functional import softplus


@dataclass(frozen=True)
class CountTensor:
    """Counts of some cells, with the places of the nonzero ones.

    Args:
        dense: (cells, genes) float32.
        rows: (nonzero,) int64, the cell of each nonzero count.
        columns: (nonzero,) int64, its gene.
        values: (nonzero,) float32, the counts there.
    """

    dense: Tensor
    rows: Tensor
    columns: Tensor
    values: Tensor

    @classmethod
    def from_dense(cls, dense: Tensor) -> CountTensor:
        """Find the nonzero counts of ``dense`` (cells, genes)."""
        rows, columns = dense.nonzero(as_tuple=True)
        return cls(dense, rows, columns, dense[rows, columns])

    @classmethod
    def from_csr(cls, counts: sp.csr_matrix) -> CountTensor:
        """Counts (cells, genes) that store no zeros."""
        rows = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
        columns = torch.from_numpy(counts.indices.astype(np.int64))
        values = torch.from_numpy(counts.data.astype(np.float32))
        dense = torch.from_numpy(counts.toarray().astype(np.float32, copy=False))
        return cls(dense, torch.from_numpy(rows), columns, values)

    def at_nonzero(self, values: Tensor) -> Tensor:
        """Entries of ``values`` (cells, genes) where the counts aren't zero, (nonzero,)."""
        return values.reshape(-1).index_select(0, self.rows * self.dense.shape[1] + self.columns)


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
    correction = counts.at_nonzero(less_zero - as_if_zero)
    nonzero = correction + _at_nonzero(counts, ratio, log_theta)
    return (as_if_zero - softplus(-zero_logits)).sum(dim=1) + _sum_per_cell(counts, nonzero)


def _at_nonzero(counts: CountTensor, ratio: Tensor, log_theta: Tensor) -> Tensor:
    """What nonzero counts add to the negative binomial's log p(0), (nonzero,)."""
    theta = log_theta.double().exp()
    x = counts.values.double()
    gamma = torch.lgamma(x + theta.index_select(0, counts.columns)) - torch.lgamma(x + 1)
    gamma = gamma - torch.lgamma(theta).index_select(0, counts.columns)
    return gamma.float() - counts.values * softplus(-counts.at_nonzero(ratio))


def _sum_per_cell(counts: CountTensor, terms: Tensor) -> Tensor:
    return terms.new_zeros(counts.dense.shape[0]).index_add(0, counts.rows, terms)


LIKELIHOODS: Mapping[str, CountLikelihood] = {"nb": negative_binomial, "zinb": zero_inflated_negative_binomial}
