"""The seam between data and frameworks, and the adapter for torch."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from gca_core.errors import DataValidationError
from gca_core.latent.checkpoint import load_checkpoint, save_checkpoint
from gca_core.latent.config import LatentConfig
from gca_core.latent.data_adapter import BatchSource, CountBatch, Registry
from gca_core.latent.likelihood import LIKELIHOODS, CountLikelihood, CountTensor
from gca_core.latent.network import VAE, Architecture

log = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float32]
PROGRESS_LINES = 10


class EpochRecord(BaseModel):
    """Means per cell after one epoch, in nats; the validation ones are None without validation cells.

    Args:
        epoch: counted from 1.
        kl_weight: weight of the KL term in this epoch's loss.
        train_nll: negative log-likelihood of the training cells, while training.
        train_kl: KL divergence of the training cells, while training.
        val_nll: negative log-likelihood of the validation cells.
        val_kl: KL divergence of the validation cells.
    """

    model_config = ConfigDict(frozen=True)

    epoch: int
    kl_weight: float
    train_nll: float
    train_kl: float
    val_nll: float
    val_kl: float

    @property
    def val_negative_elbo(self) -> float:
        """What early stopping watches, with the full weight on the KL term."""
        return self.val_nll + self.val_kl


class TrainingHistory(BaseModel):
    """All epochs, and the one whose weights were kept."""

    model_config = ConfigDict(frozen=True)

    epochs: tuple[EpochRecord, ...]
    best_epoch: int
    stopped_early: bool


class ModelAdapter(Protocol):
    """A model that learns a latent space from counts. Another framework is another implementation."""

    @property
    def registry(self) -> Registry:
        """Genes and batches that the model was fitted to."""
        ...

    def fit(self, source: BatchSource) -> TrainingHistory:
        """Learn from the training batches; labels are not seen."""
        ...

    def predict(self, batches: Iterable[CountBatch], *, registry: Registry) -> FloatArray:
        """Latent means (cells, latent) of cells whose genes and batches ``registry`` names."""
        ...

    def save(self, uri: str) -> str:
        """Write a checkpoint folder and return its URI."""
        ...

    @classmethod
    def load(cls, uri: str) -> Self:
        """Read a checkpoint folder."""
        ...


@contextmanager
def reproducible(seed: int, threads: int) -> Iterator[None]:
    """Seed torch, fix its threads and refuse algorithms that aren't deterministic, within the block."""
    threads_before = torch.get_num_threads()
    deterministic_before = torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(deterministic_before)
            torch.set_num_threads(threads_before)


@dataclass(frozen=True)
class _TensorBatch:
    counts: CountTensor
    log_library: Tensor
    batch_codes: Tensor

    @classmethod
    def of(cls, batch: CountBatch) -> Self:
        counts = CountTensor.from_csr(batch.counts)
        return cls(counts, counts.dense.sum(dim=1).log(), torch.from_numpy(batch.batch_codes))


class TorchVAE:
    """A VAE with a Gaussian latent and a count likelihood, in torch, on the CPU.

    The model is that of scVI (Lopez et al. 2018, doi:10.1038/s41592-018-0229-2) with the library size
    observed: z ~ N(0, 1), and counts ~ NB or ZINB with mean library x softmax(decoder(z, batch)) and one
    inverse dispersion per gene.

    Args:
        config: sizes and training options.
        likelihood: replaces the log-likelihood that ``config.likelihood`` names.
    """

    def __init__(self, config: LatentConfig, *, likelihood: CountLikelihood | None = None) -> None:
        self.config = config
        self.architecture = Architecture.of(config)
        self._likelihood = likelihood or LIKELIHOODS[config.likelihood]
        self._fitted: tuple[VAE, Registry] | None = None

    @property
    def registry(self) -> Registry:
        """Genes and batches that the model was fitted to."""
        return self._parts()[1]

    def fit(self, source: BatchSource, *, on_epoch: Callable[[EpochRecord], None] | None = None) -> TrainingHistory:
        """Learn from the training batches, watching the validation batches; labels are not seen.

        The weights of the epoch with the best held-out ELBO after the KL warm-up are kept.

        Raises:
            DataValidationError: the loss became infinite or NaN.
        """
        with reproducible(self.config.seed, self.config.threads):
            vae = _build(self.architecture, source.registry)
            _start_at_mean_expression(vae, source)
            history = self._train(vae, source, on_epoch)
        self._fitted = (vae.eval(), source.registry)
        return history

    def predict(self, batches: Iterable[CountBatch], *, registry: Registry) -> FloatArray:
        """Latent means (cells, latent) of cells whose genes and batches ``registry`` names.

        Raises:
            DataValidationError: the model isn't fitted, the genes aren't the ones it was fitted to, or a
                batch isn't one of its own.
        """
        vae, own = self._parts()
        require_same_genes(own.genes, registry.genes)
        codes = torch.from_numpy(_own_batch_codes(own.batches, registry.batches))
        with reproducible(self.config.seed, self.config.threads), torch.no_grad():
            means = [vae.encode(b.counts, codes[b.batch_codes]).mean for b in map(_TensorBatch.of, batches)]
        return torch.cat(means).numpy() if means else np.zeros((0, self.architecture.latent_dim), dtype=np.float32)

    def save(self, uri: str) -> str:
        """Write the weights and the registry to the folder ``uri``; returns its URI."""
        vae, registry = self._parts()
        return save_checkpoint(uri, vae.state_dict(), self.architecture, registry)

    @classmethod
    def load(cls, uri: str) -> Self:
        """Read a checkpoint folder.

        Raises:
            DataValidationError: a file is missing, truncated, or doesn't belong to the registry.
        """
        state, architecture, registry = load_checkpoint(uri)
        model = cls(LatentConfig(input_uri=uri, output_dir=uri, **architecture.model_dump()))
        vae = _build(architecture, registry)
        try:
            vae.load_state_dict(state)
        except RuntimeError as error:
            raise DataValidationError(f"the weights in {uri!r} don't fit their registry: {error}") from None
        model._fitted = (vae.eval(), registry)
        return model

    def _parts(self) -> tuple[VAE, Registry]:
        if self._fitted is None:
            raise DataValidationError("the model has no weights yet; call fit, or load a checkpoint")
        return self._fitted

    def _train(self, vae: VAE, source: BatchSource, on_epoch: Callable[[EpochRecord], None] | None) -> TrainingHistory:
        config = self.config
        optimizer = torch.optim.Adam(vae.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True)
        validation = [_TensorBatch.of(batch) for batch in source.iter_val_batches()]
        records: list[EpochRecord] = []
        best: tuple[float, int, dict[str, Tensor]] | None = None
        patience = config.early_stopping_patience
        for epoch in range(1, config.epochs + 1):
            weight = min(1.0, epoch / config.warmup) if config.warmup else 1.0
            train_nll, train_kl = self._train_epoch(vae, optimizer, source.iter_train_batches(epoch), weight)
            val_nll, val_kl = self._validate(vae, validation)
            record = EpochRecord(
                epoch=epoch, kl_weight=weight, train_nll=train_nll, train_kl=train_kl, val_nll=val_nll, val_kl=val_kl
            )
            _require_finite(record)
            records.append(record)
            self._report(record)
            if on_epoch is not None:
                on_epoch(record)
            if weight < 1:
                continue
            if best is None or record.val_negative_elbo < best[0]:
                best = (record.val_negative_elbo, epoch, copy.deepcopy(vae.state_dict()))
            elif patience is not None and epoch - best[1] >= patience:
                break
        if best is not None:
            vae.load_state_dict(best[2])
        last = records[-1].epoch
        return TrainingHistory(
            epochs=tuple(records), best_epoch=best[1] if best else last, stopped_early=last < config.epochs
        )

    def _train_epoch(
        self, vae: VAE, optimizer: torch.optim.Optimizer, batches: Iterable[CountBatch], kl_weight: float
    ) -> tuple[float, float]:
        vae.train()
        totals, cells = torch.zeros(2), 0
        for batch in map(_TensorBatch.of, batches):
            nll, kl = self._losses(vae, batch, None)
            loss = (nll + kl_weight * kl).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            totals += torch.stack([nll.detach().sum(), kl.detach().sum()])
            cells += len(nll)
        return _means(totals, cells)

    def _validate(self, vae: VAE, batches: Sequence[_TensorBatch]) -> tuple[float, float]:
        vae.eval()
        # the same draws every epoch, so that epochs differ by the weights alone
        generator = torch.Generator().manual_seed(self.config.seed)
        totals, cells = torch.zeros(2), 0
        with torch.no_grad():
            for batch in batches:
                nll, kl = self._losses(vae, batch, generator)
                totals += torch.stack([nll.sum(), kl.sum()])
                cells += len(nll)
        return _means(totals, cells)

    def _losses(self, vae: VAE, batch: _TensorBatch, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        posterior = vae.encode(batch.counts, batch.batch_codes)
        decoded = vae.decode(posterior.sample(generator), batch.log_library, batch.batch_codes)
        likelihood = self._likelihood(batch.counts, decoded)
        return -likelihood, posterior.kl()

    def _report(self, record: EpochRecord) -> None:
        if record.epoch % max(1, self.config.epochs // PROGRESS_LINES) == 0 or record.epoch == 1:
            log.info(
                "epoch %d of %d: held-out -ELBO %.1f nats per cell (KL %.1f, weight %.2f)",
                record.epoch,
                self.config.epochs,
                record.val_negative_elbo,
                record.val_kl,
                record.kl_weight,
            )


def require_same_genes(expected: Sequence[str], found: Sequence[str]) -> None:
    """Check that two gene lists agree in content and order.

    Raises:
        DataValidationError: they don't; the difference is named.
    """
    if tuple(expected) == tuple(found):
        return
    missing = sorted(set(expected) - set(found))
    extra = sorted(set(found) - set(expected))
    if missing or extra:
        parts = [
            f"{len(names)} {what} ({_listed(names)})"
            for names, what in ((missing, "missing"), (extra, "not known"))
            if names
        ]
        difference = " and ".join(parts)
    else:
        difference = "the same genes in another order, or some of them twice"
    raise DataValidationError(
        f"the model was fitted to {len(expected)} genes, the data have {len(found)}: {difference}; "
        "select and order the genes as in the model's registry.json"
    )


def _own_batch_codes(own: Sequence[str], found: Sequence[str]) -> npt.NDArray[np.int64]:
    """The model's code of each batch of the data; a model with fewer than two batches doesn't look at them."""
    if len(own) < 2:
        return np.zeros(max(len(found), 1), dtype=np.int64)
    unknown = [name for name in found if name not in own]
    if unknown or not found:
        raise DataValidationError(
            f"the model was fitted with the batches {_listed(own)}; the data have {_listed(unknown) or 'none'}; "
            "set batch_key to a column with batches the model knows, or train anew with these cells"
        )
    return np.array([own.index(name) for name in found], dtype=np.int64)


def _listed(names: Sequence[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def _build(architecture: Architecture, registry: Registry) -> VAE:
    return VAE(architecture, n_genes=len(registry.genes), n_batches=len(registry.batches))


def _start_at_mean_expression(vae: VAE, source: BatchSource) -> None:
    """Let the decoder start from each gene's mean proportion instead of from equal ones."""
    totals = np.ones(len(source.registry.genes))
    for batch in source.iter_train_batches(0):
        totals += np.asarray(batch.counts.sum(axis=0), dtype=np.float64).ravel()
    proportions = totals / totals.sum()
    with torch.no_grad():
        vae.proportion_head.bias.copy_(torch.from_numpy(np.log(proportions)))


def _means(totals: Tensor, cells: int) -> tuple[float, float]:
    return float(totals[0]) / cells, float(totals[1]) / cells


def _require_finite(record: EpochRecord) -> None:
    if not math.isfinite(record.train_nll + record.train_kl + record.val_nll + record.val_kl):
        raise DataValidationError(
            f"the loss is not finite in epoch {record.epoch}; lower lr, or look for extreme counts in the input"
        )
