"""The training loop of the VAE: losses, warm-up, early stopping, and what is kept."""

import copy
import itertools
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import torch
from pydantic import BaseModel
from torch import Tensor
from torch.nn.functional import cross_entropy

from gca_core.errors import ConfigurationError, DataValidationError
from gca_core.latent.config import LatentConfig
from gca_core.latent.data.adapter import BatchSource, CountBatch
from gca_core.latent.model.likelihood import CountLikelihood, CountTensor, Decoded
from gca_core.latent.model.network import VAE, Posterior
from gca_core.progress import report_progress

log = logging.getLogger(__name__)

PROGRESS_LINES = 10
# as in scVI: steps of rarely seen genes stay small
ADAM_EPSILON = 1e-2
HELD_VALIDATION_BATCHES = 64
State = dict[str, Tensor]


class EpochRecord(BaseModel, frozen=True):
    """Means per cell after one epoch, in nats.

    Args:
        epoch: counted from 1.
        kl_weight: weight of the KL term in this epoch's loss.
        train_nll: negative log-likelihood of the training cells, while training.
        train_kl: KL divergence of the training cells, while training.
        val_nll: negative log-likelihood of the validation cells.
        val_kl: KL divergence of the validation cells.
        train_cross_entropy: of the label head on labelled training cells, while training; None without a head.
    """

    epoch: int
    kl_weight: float
    train_nll: float
    train_kl: float
    val_nll: float
    val_kl: float
    train_cross_entropy: float | None = None

    @property
    def val_negative_elbo(self) -> float:
        """What early stopping watches, with the full weight on the KL term."""
        return self.val_nll + self.val_kl


class TrainingHistory(BaseModel, frozen=True):
    """All epochs, and the one whose weights were kept."""

    epochs: tuple[EpochRecord, ...]
    best_epoch: int
    stopped_early: bool


@dataclass(frozen=True)
class TensorBatch:
    """Some cells on the device."""

    counts: CountTensor
    log_library: Tensor
    batch_codes: Tensor
    label_codes: Tensor | None = None

    @classmethod
    def of(cls, batch: CountBatch, device: torch.device) -> Self:
        """Move a batch of counts to the device."""
        counts = CountTensor(batch.counts, device)
        labels = None if batch.label_codes is None else torch.from_numpy(batch.label_codes).to(device)
        return cls(counts, counts.library.log(), torch.from_numpy(batch.batch_codes).to(device), labels)


@dataclass(frozen=True)
class Losses:
    """Of some cells: (cells,) in nats, and the sum of the labelled ones' cross-entropy with their number."""

    nll: Tensor
    kl: Tensor
    cross_entropy: Tensor
    n_labelled: int


def device_of(config: LatentConfig) -> torch.device:
    """The device that the configuration asks for; of a GPU, the process gets the share of memory it names.

    Raises:
        ConfigurationError: CUDA is asked for by name and isn't there.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError("device is cuda, but torch sees no GPU here; set device to cpu or auto")
    if config.device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    torch.cuda.set_per_process_memory_fraction(config.gpu_memory_fraction)
    return torch.device("cuda")


@contextmanager
def reproducible(seed: int, threads: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed torch, fix its threads and, on the CPU, refuse algorithms that aren't deterministic, within the block."""
    cuda = torch.device(device).type == "cuda"
    threads_before = torch.get_num_threads()
    deterministic_before = torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if cuda else []):
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(not cuda)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(deterministic_before)
            torch.set_num_threads(threads_before)


def posterior_and_decoded(
    vae: VAE, batch: TensorBatch, *, autocast: bool = False, generator: torch.Generator | None = None
) -> tuple[Posterior, Tensor, Decoded]:
    """Posterior, one draw from it (cells, latent), and what the decoder says; all in single precision."""
    with torch.autocast(batch.counts.device.type, enabled=autocast and batch.counts.device.type == "cuda"):
        half = vae.encode(batch.counts, batch.batch_codes)
        posterior = Posterior(half.mean.float(), half.log_variance.float())
        latent = posterior.sample(generator)
        decoded = vae.decode(latent, batch.log_library, batch.batch_codes)
    zero_logits = None if decoded.zero_logits is None else decoded.zero_logits.float()
    return posterior, latent, Decoded(decoded.logits.float(), batch.log_library, decoded.log_theta.float(), zero_logits)


def losses(
    vae: VAE,
    likelihood: CountLikelihood,
    batch: TensorBatch,
    *,
    autocast: bool = False,
    generator: torch.Generator | None = None,
) -> Losses:
    """Losses of some cells, with one draw from the posterior."""
    posterior, latent, decoded = posterior_and_decoded(vae, batch, autocast=autocast, generator=generator)
    nll = -likelihood(batch.counts, decoded)
    entropy, n_labelled = nll.new_zeros(()), 0
    if vae.classifier is not None and batch.label_codes is not None:
        labelled = (batch.label_codes >= 0).nonzero(as_tuple=True)[0]
        n_labelled = len(labelled)
        logits = vae.classifier(latent.index_select(0, labelled))
        entropy = cross_entropy(logits, batch.label_codes.index_select(0, labelled), reduction="sum")
    return Losses(nll, posterior.kl(), entropy, n_labelled)


class Trainer:
    """Fits a VAE and remembers its best weights.

    Args:
        vae: changed in place.
        likelihood: log-likelihood of the counts.
        config: options of the training.
    """

    def __init__(self, vae: VAE, likelihood: CountLikelihood, config: LatentConfig) -> None:
        self._vae, self._likelihood, self._config = vae, likelihood, config
        self._device = next(vae.parameters()).device
        self._optimizer = torch.optim.Adam(
            vae.parameters(), lr=config.lr, weight_decay=config.weight_decay, eps=ADAM_EPSILON, fused=True
        )
        self._best_loss = math.inf
        self.best_epoch = 0
        self.best_state: State | None = None

    def run(self, source: BatchSource, on_epoch: Callable[[EpochRecord, bool], None]) -> TrainingHistory:
        """Train until the last epoch or until the patience is over, and restore the best weights.

        Args:
            source: the cells.
            on_epoch: told of each epoch, and whether its weights are the best so far.
        """
        config = self._config
        # few enough batches stay in memory during the whole training
        first = itertools.islice(source.iter_val_batches(), HELD_VALIDATION_BATCHES + 1)
        held = [TensorBatch.of(batch, self._device) for batch in first]
        validation = held if len(held) <= HELD_VALIDATION_BATCHES else []
        records: list[EpochRecord] = []
        for epoch in range(1, config.epochs + 1):
            weight = min(1.0, epoch / config.warmup) if config.warmup else 1.0
            train_nll, train_kl, entropy = self._train_epoch(source.iter_train_batches(epoch), weight)
            batches = validation or (TensorBatch.of(b, self._device) for b in source.iter_val_batches())
            val_nll, val_kl = validation_loss(self._vae, self._likelihood, batches, config)
            record = EpochRecord(
                epoch=epoch,
                kl_weight=weight,
                train_nll=train_nll,
                train_kl=train_kl,
                val_nll=val_nll,
                val_kl=val_kl,
                train_cross_entropy=entropy,
            )
            if not math.isfinite(train_nll + train_kl + val_nll + val_kl):
                raise DataValidationError(
                    f"the loss is not finite in epoch {epoch}; lower lr, or look for extreme counts in the input"
                )
            records.append(record)
            self._report(record)
            on_epoch(record, self._remember(record))
            patience = config.early_stopping_patience
            if weight == 1 and patience is not None and epoch - self.best_epoch >= patience:
                break
        if self.best_state is not None:
            self._vae.load_state_dict(self.best_state)
        last = records[-1].epoch
        return TrainingHistory(epochs=tuple(records), best_epoch=self.best_epoch, stopped_early=last < config.epochs)

    def _remember(self, record: EpochRecord) -> bool:
        """Keep the weights if they are the best; those of the warm-up are kept until better ones come."""
        warming = record.kl_weight < 1
        if not warming and record.val_negative_elbo >= self._best_loss:
            return False
        self._best_loss = math.inf if warming else record.val_negative_elbo
        self.best_epoch, self.best_state = record.epoch, copy.deepcopy(self._vae.state_dict())
        return True

    def _train_epoch(self, batches: Iterable[CountBatch], kl_weight: float) -> tuple[float, float, float | None]:
        self._vae.train()
        totals, cells, labelled = torch.zeros(3, device=self._device), 0, 0
        for batch in batches:
            found = losses(
                self._vae, self._likelihood, TensorBatch.of(batch, self._device), autocast=self._config.autocast
            )
            loss = (found.nll + kl_weight * found.kl).mean()
            if found.n_labelled:
                loss = loss + self._config.classification_weight * found.cross_entropy / found.n_labelled
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            totals += torch.stack([found.nll.sum(), found.kl.sum(), found.cross_entropy]).detach()
            cells, labelled = cells + len(found.nll), labelled + found.n_labelled
        nll, kl, entropy = totals.tolist()
        return nll / cells, kl / cells, entropy / labelled if labelled else None

    def _report(self, record: EpochRecord) -> None:
        report_progress("train", record.epoch, self._config.epochs)
        if record.epoch % max(1, self._config.epochs // PROGRESS_LINES) == 0 or record.epoch == 1:
            log.info(
                "epoch %d of %d: held-out -ELBO %.1f nats per cell (KL %.1f, weight %.2f)",
                record.epoch,
                self._config.epochs,
                record.val_negative_elbo,
                record.val_kl,
                record.kl_weight,
            )


def validation_loss(
    vae: VAE, likelihood: CountLikelihood, batches: Iterable[TensorBatch], config: LatentConfig
) -> tuple[float, float]:
    """Mean negative log-likelihood and KL divergence per cell, with the same draws for the same seed."""
    vae.eval()
    device = next(vae.parameters()).device
    # the same draws every epoch, so that epochs differ by the weights alone
    generator = torch.Generator(device).manual_seed(config.seed)
    totals, cells = torch.zeros(2, device=device), 0
    with torch.no_grad():
        for batch in batches:
            found = losses(vae, likelihood, batch, autocast=config.autocast, generator=generator)
            totals += torch.stack([found.nll.sum(), found.kl.sum()])
            cells += len(found.nll)
    nll, kl = totals.tolist()
    return nll / cells, kl / cells
