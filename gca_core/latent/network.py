"""The networks: encoder to a Gaussian, decoder to the mean of the counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.nn.functional import log_softmax, one_hot

from gca_core.latent.config import LatentConfig, Likelihood
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


class Architecture(BaseModel):
    """What decides the shapes and the meaning of the weights, besides genes and batches.

    Args:
        latent_dim: size of the latent space.
        hidden_dims: widths of the encoder's layers, reversed in the decoder.
        dropout: share of the encoder's hidden units left out in training.
        likelihood: ``zinb`` adds a decoder head for technical zeros.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    latent_dim: int
    hidden_dims: tuple[int, ...]
    dropout: float
    likelihood: Likelihood

    @classmethod
    def of(cls, config: LatentConfig) -> Self:
        """The part of ``config`` that the weights depend on."""
        return cls.model_validate({name: getattr(config, name) for name in cls.model_fields})


class VAE(nn.Module):
    """Encoder and decoder of counts with batch covariates.

    Args:
        architecture: sizes.
        n_genes: columns of the counts.
        n_batches: batches; fewer than two means no covariate.
    """

    def __init__(self, architecture: Architecture, *, n_genes: int, n_batches: int) -> None:
        super().__init__()
        widths, latent_dim = architecture.hidden_dims, architecture.latent_dim
        self.n_covariates = n_batches if n_batches > 1 else 0
        self.encoder = _hidden_layers(n_genes + self.n_covariates, widths, architecture.dropout)
        self.mean_head = nn.Linear(widths[-1], latent_dim)
        self.log_variance_head = nn.Linear(widths[-1], latent_dim)
        self.decoder = _hidden_layers(latent_dim + self.n_covariates, widths[::-1], 0.0)
        self.proportion_head = nn.Linear(widths[0], n_genes)
        self.zero_head = nn.Linear(widths[0], n_genes) if architecture.likelihood == "zinb" else None
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
