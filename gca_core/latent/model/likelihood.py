"""Log-likelihoods of counts, written so that nothing cancels or overflows.

The negative binomial with mean mu and inverse dispersion theta is, with d = log mu - log theta,

    log p(x) = -theta softplus(d) - x softplus(-d) + lgamma(x + theta) - lgamma(theta) - lgamma(x + 1)

(the mean form of the distribution as in Lopez et al. 2018, doi:10.1038/s41592-018-0229-2, with
log(theta / (theta + mu)) = -softplus(d) and log(mu / (theta + mu)) = -softplus(-d)). At x = 0 all but the
first term vanish, so the others are taken at the nonzero counts only. There lgamma(x + theta) - lgamma(theta)
is log theta where x = 1, the most frequent count; elsewhere the gamma terms are taken in double precision,
because they lose all digits in single precision once theta is large.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.nn.functional import log_softmax, softplus

GAUSSIAN_TARGET_SUM = 1e4


class CountTensor:
    """Counts of some cells, with the places of the nonzero ones.

    Args:
        matrix: (cells, genes) float32 CSR that stores no zeros.
        device: where the tensors lie.
    """

    def __init__(self, matrix: sp.csr_matrix, device: torch.device | str = "cpu") -> None:
        self.matrix = matrix
        self.device = torch.device(device)
        self.shape: tuple[int, int] = (int(matrix.shape[0]), int(matrix.shape[1]))

    @cached_property
    def values(self) -> Tensor:
        """The nonzero counts, (nonzero,) float32."""
        return torch.from_numpy(self.matrix.data.astype(np.float32, copy=False)).to(self.device)

    @cached_property
    def rows(self) -> Tensor:
        """The cell of each nonzero count, (nonzero,) int64."""
        rows = np.repeat(np.arange(self.shape[0]), np.diff(self.matrix.indptr))
        return torch.from_numpy(rows).to(self.device)

    @cached_property
    def columns(self) -> Tensor:
        """The gene of each nonzero count, (nonzero,) int64."""
        return torch.from_numpy(self.matrix.indices.astype(np.int64)).to(self.device)

    @cached_property
    def places(self) -> Tensor:
        """Where each nonzero count is in the flattened matrix, (nonzero,) int64."""
        return self.rows * self.shape[1] + self.columns

    @cached_property
    def above_one(self) -> Tensor:
        """Which nonzero counts aren't 1, as indices into ``values``."""
        return (self.values != 1).nonzero(as_tuple=True)[0]

    @cached_property
    def log_factorials(self) -> Tensor:
        """lgamma(x + 1) of the counts in ``above_one``, float64."""
        return torch.lgamma(self.values.index_select(0, self.above_one).double() + 1)

    @cached_property
    def library(self) -> Tensor:
        """Counts per cell, (cells,) float32, at least 1."""
        sums = np.asarray(self.matrix.sum(axis=1), dtype=np.float32).ravel()
        return torch.from_numpy(np.maximum(sums, 1)).to(self.device)

    @cached_property
    def dense(self) -> Tensor:
        """(cells, genes) float32."""
        return self.scattered(self.values)

    def scattered(self, values: Tensor) -> Tensor:
        """A dense matrix (cells, genes) with ``values`` (nonzero,) at the nonzero counts."""
        return values.new_zeros(self.shape[0] * self.shape[1]).index_put((self.places,), values).view(self.shape)

    def at_nonzero(self, values: Tensor) -> Tensor:
        """Entries of ``values`` (cells, genes) where the counts aren't zero, (nonzero,)."""
        return values.reshape(-1).index_select(0, self.places)

    def sum_per_cell(self, terms: Tensor) -> Tensor:
        """Sums of ``terms`` (nonzero,) by cell, (cells,)."""
        return terms.new_zeros(self.shape[0]).index_add(0, self.rows, terms)

    def spread(self, parameter: Tensor) -> Tensor:
        """A parameter (genes,) or (cells, genes) at the nonzero counts, (nonzero,)."""
        return parameter.index_select(0, self.columns) if parameter.dim() == 1 else self.at_nonzero(parameter)


@dataclass(frozen=True)
class Decoded:
    """What the decoder says of some cells.

    Args:
        logits: (cells, genes), whose softmax is each gene's share of the library; for the Gaussian the mean of
            the log-normalised values.
        log_library: (cells,), log of the counts per cell.
        log_theta: (genes,) or (cells, genes), log of the inverse dispersion; for the Gaussian of the inverse
            variance.
        zero_logits: (cells, genes), logits of the chance that a count is a technical zero; None without
            zero inflation.
    """

    logits: Tensor
    log_library: Tensor
    log_theta: Tensor
    zero_logits: Tensor | None = None

    @property
    def log_mean(self) -> Tensor:
        """Log of the expected counts, (cells, genes)."""
        return log_softmax(self.logits, dim=1) + self.log_library[:, None]


class CountLikelihood(Protocol):
    """Log-likelihood per cell in nats, summed over genes."""

    def __call__(self, counts: CountTensor, decoded: Decoded) -> Tensor:
        """Return (cells,)."""
        ...


def zero_inflated_negative_binomial(counts: CountTensor, decoded: Decoded) -> Tensor:
    """Zero-inflated negative binomial log-likelihood per cell, (cells,).

    With z the logit of a technical zero and n the negative binomial's log p(0), the mixture has
    log p(0) = softplus(n - z) - softplus(-z), and a count above zero has the negative binomial's log p
    plus log(1 - sigmoid(z)) = -z - softplus(-z).
    """
    zero_logits, log_theta = decoded.zero_logits, decoded.log_theta
    if zero_logits is None:
        raise ValueError("the zero-inflated likelihood needs the logits of technical zeros")
    ratio = decoded.log_mean - log_theta
    less_zero = -softplus(ratio) * log_theta.exp() - zero_logits
    as_if_zero = softplus(less_zero)
    correction = counts.at_nonzero(less_zero - as_if_zero)
    above_zero = _gamma_terms(counts, log_theta).float() - counts.values * softplus(-counts.at_nonzero(ratio))
    nonzero = correction + above_zero
    return (as_if_zero - softplus(-zero_logits)).sum(dim=1) + counts.sum_per_cell(nonzero)


def gaussian(counts: CountTensor, decoded: Decoded) -> Tensor:
    """Gaussian log-likelihood per cell of log1p(counts per 10,000), (cells,), one variance per gene.

    The zeros are taken together: (0 - m)^2 is summed everywhere and corrected at the nonzero counts.
    """
    log_precision, mean = decoded.log_theta, decoded.logits
    precision = log_precision.exp()
    everywhere = 0.5 * (log_precision - np.log(2 * np.pi) - precision * mean.square()).sum(dim=1)
    values = (counts.values * (GAUSSIAN_TARGET_SUM / counts.library).index_select(0, counts.rows)).log1p()
    correction = counts.spread(precision) * values * (counts.at_nonzero(mean) - 0.5 * values)
    result: Tensor = everywhere + counts.sum_per_cell(correction)
    return result


def softmax_negative_binomial(counts: CountTensor, decoded: Decoded) -> Tensor:
    """Negative binomial log-likelihood per cell, (cells,), of the softmax of logits in one step with its derivative.

    The derivative is written out, for fewer passes over cells x genes, which are most of an epoch's time on a CPU.
    """
    result: Tensor = _SoftmaxNegativeBinomial.apply(  # type: ignore[no-untyped-call]
        decoded.logits.float(), decoded.log_library, decoded.log_theta.float(), counts
    )
    return result


class _SoftmaxNegativeBinomial(torch.autograd.Function):
    # r = mu / theta; everywhere -theta log1p(r), and x log(r / (1 + r)) with the gamma terms at nonzero counts
    @staticmethod
    def forward(ctx: Any, logits: Tensor, log_library: Tensor, log_theta: Tensor, counts: CountTensor) -> Tensor:
        largest = logits.amax(dim=1, keepdim=True)
        r = (logits - largest).exp_()
        total = r.sum(dim=1)
        per_cell = log_library - total.log() - largest[:, 0]
        log_ratio = counts.at_nonzero(logits) + per_cell.index_select(0, counts.rows) - counts.spread(log_theta)
        # the bound keeps single precision finite and is far beyond any count
        r = r.mul_((log_library.exp() / total)[:, None]).mul_(log_theta.neg().exp()).clamp_(max=1e30)
        log1p_r = r.log1p()
        everywhere = -(log1p_r * log_theta.exp()).sum(dim=1)
        terms = _gamma_terms(counts, log_theta).float() - counts.values * softplus(-log_ratio)
        ctx.counts = counts
        ctx.save_for_backward(r, log1p_r, log_theta, log_library)
        return everywhere.index_add_(0, counts.rows, terms)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (outer,) = gradients
        counts: CountTensor = ctx.counts
        r, log1p_r, log_theta, log_library = ctx.saved_tensors
        theta = log_theta.exp()
        share_of_mean = r / (r + 1)
        rest = counts.values * (1 - counts.at_nonzero(share_of_mean))
        by_mean = (share_of_mean * -theta).view(-1).index_add_(0, counts.places, rest).view(counts.shape)
        by_mean *= outer[:, None]
        by_library = by_mean.sum(dim=1)
        share = r.mul(theta)
        share *= (-log_library.exp().reciprocal() * by_library)[:, None]
        by_theta = share_of_mean.sub_(log1p_r).mul_(theta).mul_(outer[:, None])
        nonzero = (_gamma_derivative(counts, log_theta) - rest) * outer.index_select(0, counts.rows)
        if log_theta.dim() == 1:
            by_log_theta = by_theta.sum(dim=0).index_add_(0, counts.columns, nonzero)
        else:
            by_log_theta = by_theta.view(-1).index_add_(0, counts.places, nonzero).view(counts.shape)
        return by_mean.add_(share), by_library, by_log_theta, None


def _gamma_terms(counts: CountTensor, log_theta: Tensor) -> Tensor:
    """lgamma(x + theta) - lgamma(theta) - lgamma(x + 1), (nonzero,); log theta where x is 1."""
    at_counts = counts.spread(log_theta).double()
    theta = at_counts.index_select(0, counts.above_one).exp()
    x = counts.values.index_select(0, counts.above_one).double()
    above = torch.lgamma(x + theta) - torch.lgamma(theta) - counts.log_factorials
    return at_counts.index_copy(0, counts.above_one, above)


def _gamma_derivative(counts: CountTensor, log_theta: Tensor) -> Tensor:
    """Derivative of the gamma terms by log theta, (nonzero,)."""
    at_counts = counts.spread(log_theta).index_select(0, counts.above_one)
    theta = at_counts.double().exp()
    x = counts.values.index_select(0, counts.above_one).double()
    above = ((torch.digamma(x + theta) - torch.digamma(theta)) * theta).float()
    return torch.ones_like(counts.values).index_copy(0, counts.above_one, above)


LIKELIHOODS: Mapping[str, CountLikelihood] = {
    "nb": softmax_negative_binomial,
    "zinb": zero_inflated_negative_binomial,
    "gaussian": gaussian,
}
