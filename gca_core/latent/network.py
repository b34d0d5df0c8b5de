"""The networks: encoder to a Gaussian, decoder to the mean of the counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, one_hot

from gca_core.latent.likelihood import CountParameters, CountTensor

LOG_VARIANCE_BOUND = 10.0


@dataclass(frozen=True)
class Posterior:
    """A diagonal Gaussian per cell; both (cells, latent)."""

    mean: Tensor
    log_variance: Tensor

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One draw by the reparameterisation trick, (cells, latent)."""
        noise = torch.randn(self.mean.shape, generator=generator, device=self.mean.device)
        return self.mean + noise * (0.5 * self.log_variance).exp()

    def kl(self) -> Tensor:
        """Kullback-Leibler divergence from the standard normal, (cells,), in nats."""
        return 0.5 * (self.mean.square() + self.log_variance.exp() - 1 - self.log_variance).sum(dim=1)


def _hidden_layers(n_in: int, widths: Sequence[int], dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_inputs, n_outputs in zip([n_in, *widths[:-1]], widths, strict=True):
        layers += [nn.Linear(n_inputs, n_outputs), nn.LayerNorm(n_outputs), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers)


class VAE(nn.Module):
    """Encoder and decoder of counts with batch covariates.

    Args:
        n_genes: columns of the counts.
        n_batches: batches; fewer than two means no covariate.
        latent_dim: size of the latent space.
        hidden_dims: widths of the encoder's layers, reversed in the decoder.
        dropout: share of the encoder's hidden units left out in training.
        zero_inflated: whether the decoder has a head for technical zeros.
    """

    def __init__(
        self,
        n_genes: int,
        n_batches: int,
        latent_dim: int,
        hidden_dims: Sequence[int],
        dropout: float,
        *,
        zero_inflated: bool,
    ) -> None:
        super().__init__()
        self.n_covariates = n_batches if n_batches > 1 else 0
        self.encoder = _hidden_layers(n_genes + self.n_covariates, hidden_dims, dropout)
        self.mean_head = nn.Linear(hidden_dims[-1], latent_dim)
        self.log_variance_head = nn.Linear(hidden_dims[-1], latent_dim)
        self.decoder = _hidden_layers(latent_dim + self.n_covariates, hidden_dims[::-1], 0.0)
        self.proportion_head = nn.Linear(hidden_dims[0], n_genes)
        self.zero_head = nn.Linear(hidden_dims[0], n_genes) if zero_inflated else None
        self.log_theta = nn.Parameter(torch.zeros(n_genes))

    def encode(self, counts: CountTensor, batch_codes: Tensor) -> Posterior:
        """The posterior of the cells."""
        hidden = self.encoder(self._with_batch(torch.log1p(counts.dense), batch_codes))
        log_variance = self.log_variance_head(hidden).clamp(-LOG_VARIANCE_BOUND, LOG_VARIANCE_BOUND)
        return Posterior(self.mean_head(hidden), log_variance)

    def decode(self, latent: Tensor, log_library: Tensor, batch_codes: Tensor) -> CountParameters:
        """The distribution of the counts; ``latent`` (cells, latent), ``log_library`` (cells,)."""
        hidden = self.decoder(self._with_batch(latent, batch_codes))
        log_proportion = log_softmax(self.proportion_head(hidden), dim=1)
        zero_logits = None if self.zero_head is None else self.zero_head(hidden)
        return CountParameters(log_proportion + log_library[:, None], self.log_theta, zero_logits)

    def _with_batch(self, values: Tensor, batch_codes: Tensor) -> Tensor:
        if not self.n_covariates:
            return values
        return torch.cat([values, one_hot(batch_codes, self.n_covariates).to(values.dtype)], dim=1)
