"""The networks: encoder to a Gaussian, decoder to the mean of the counts, classifier of the latent space."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import scipy.sparse as sp
import torch
from pydantic import BaseModel
from torch import Tensor, nn

from gca_core.latent.config import Dispersion, LatentConfig, Likelihood
from gca_core.latent.model.likelihood import CountTensor, Decoded

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


class _SparseProduct(torch.autograd.Function):
    # both products cost what the nonzero counts cost, not what cells x genes would
    @staticmethod
    def forward(ctx: Any, weight: Tensor, matrix: sp.csr_matrix) -> Tensor:
        ctx.matrix = matrix
        return torch.from_numpy(np.asarray(matrix @ weight.detach().numpy()))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (outer,) = gradients
        return torch.from_numpy(np.asarray(ctx.matrix.T @ outer.contiguous().numpy())), None


class GeneLayer(nn.Module):
    """A linear layer on log1p(counts), summed over each cell's nonzero genes.

    Args:
        n_genes: inputs.
        n_outputs: outputs.
    """

    def __init__(self, n_genes: int, n_outputs: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(n_genes)
        self.weight = nn.Parameter(torch.empty(n_genes, n_outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(n_outputs).uniform_(-bound, bound))

    def forward(self, counts: CountTensor) -> Tensor:
        """Return (cells, outputs)."""
        if self.weight.is_cuda:
            return torch.log1p(counts.dense) @ self.weight + self.bias
        matrix = counts.matrix
        logged = sp.csr_matrix((np.log1p(matrix.data), matrix.indices, matrix.indptr), shape=matrix.shape)
        product: Tensor = _SparseProduct.apply(self.weight, logged)  # type: ignore[no-untyped-call]
        return product + self.bias


def _activation(width: int, dropout: float) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.LayerNorm(width), nn.ReLU()]
    return [*layers, nn.Dropout(dropout)] if dropout else layers


def _hidden_layers(n_in: int, widths: Sequence[int], dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_inputs, n_outputs in zip([n_in, *widths][:-1], widths, strict=True):
        layers += [nn.Linear(n_inputs, n_outputs), *_activation(n_outputs, dropout)]
    return nn.Sequential(*layers)


class Architecture(BaseModel, extra="forbid", frozen=True):
    """What decides the shapes and the meaning of the weights, besides genes, batches and labels.

    Args:
        latent_dim: size of the latent space.
        hidden_dims: widths of the encoder's layers, reversed in the decoder.
        dropout: share of the encoder's hidden units left out in training.
        likelihood: ``zinb`` adds a decoder head for technical zeros.
        dispersion: one per ``gene`` or per ``gene-batch``.
        encode_covariates: whether the encoder sees the batch.
        label_head: whether a classifier of the labels stands on the latent space.
    """

    latent_dim: int
    hidden_dims: tuple[int, ...]
    dropout: float
    likelihood: Likelihood
    dispersion: Dispersion = "gene"
    encode_covariates: bool = False
    label_head: bool = False

    @classmethod
    def of(cls, config: LatentConfig) -> Self:
        """The part of ``config`` that the weights depend on."""
        return cls.model_validate({name: getattr(config, name) for name in cls.model_fields})


class VAE(nn.Module):
    """Encoder and decoder of counts with batch covariates, and a classifier of the latent space.

    Args:
        architecture: sizes.
        n_genes: columns of the counts.
        n_batches: batches; fewer than two means no covariate.
        n_labels: labels that the classifier knows.
    """

    def __init__(self, architecture: Architecture, *, n_genes: int, n_batches: int, n_labels: int = 0) -> None:
        super().__init__()
        widths, latent_dim = architecture.hidden_dims, architecture.latent_dim
        n_covariates = n_batches if n_batches > 1 else 0
        self.gene_layer = GeneLayer(n_genes, widths[0])
        seen = n_covariates if architecture.encode_covariates else 0
        self.covariate_layer = nn.Linear(seen, widths[0], bias=False) if seen else None
        self.encoder = nn.Sequential(
            *_activation(widths[0], architecture.dropout),
            *_hidden_layers(widths[0], widths[1:], architecture.dropout),
        )
        self.mean_head = nn.Linear(widths[-1], latent_dim)
        self.log_variance_head = nn.Linear(widths[-1], latent_dim)
        self.decoder = _hidden_layers(latent_dim + n_covariates, widths[::-1], 0.0)
        self.proportion_head = nn.Linear(widths[0], n_genes)
        self.zero_head = nn.Linear(widths[0], n_genes) if architecture.likelihood == "zinb" else None
        by_batch = architecture.dispersion == "gene-batch" and n_covariates > 0
        self.log_theta = nn.Parameter(torch.zeros((n_covariates, n_genes) if by_batch else (n_genes,)))
        self.classifier = nn.Linear(latent_dim, n_labels) if architecture.label_head else None
        # one row per batch, and a last one, reached by code -1, for batches that weren't trained on
        one_hot = torch.cat([torch.eye(n_covariates), torch.full((1, n_covariates), 1 / max(n_covariates, 1))])
        self.covariates: Tensor
        self.register_buffer("covariates", one_hot, persistent=False)

    def encode(self, counts: CountTensor, batch_codes: Tensor) -> Posterior:
        """The posterior of the cells."""
        hidden = self.gene_layer(counts)
        if self.covariate_layer is not None:
            hidden = hidden + self.covariate_layer(self.covariates[batch_codes])
        hidden = self.encoder(hidden)
        log_variance = self.log_variance_head(hidden).clamp(-LOG_VARIANCE_BOUND, LOG_VARIANCE_BOUND)
        return Posterior(self.mean_head(hidden), log_variance)

    def decode(self, latent: Tensor, log_library: Tensor, batch_codes: Tensor) -> Decoded:
        """The distribution of the counts.

        Args:
            latent: (cells, latent).
            log_library: (cells,).
            batch_codes: (cells,), -1 for the mean of the batches.
        """
        covariates = self.covariates[batch_codes]
        hidden = self.decoder(torch.cat([latent, covariates], dim=1))
        zero_logits = None if self.zero_head is None else self.zero_head(hidden)
        log_theta = self.log_theta if self.log_theta.dim() == 1 else covariates @ self.log_theta
        return Decoded(self.proportion_head(hidden), log_library, log_theta, zero_logits)
