"""The seam between data and frameworks, and the adapter for torch."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from pydantic import BaseModel

from gca_core.errors import DataValidationError, GcaError
from gca_core.latent.config import LatentConfig
from gca_core.latent.data.adapter import BatchSource, CountBatch, Registry
from gca_core.latent.data.count_store import equal_parts
from gca_core.latent.model.checkpoint import load_checkpoint, save_checkpoint
from gca_core.latent.model.fitting import EpochRecord, TensorBatch, Trainer, TrainingHistory, device_of, reproducible
from gca_core.latent.model.fitting import validation_loss as _validation_loss
from gca_core.latent.model.likelihood import GAUSSIAN_TARGET_SUM, LIKELIHOODS, CountLikelihood
from gca_core.latent.model.network import VAE, Architecture
from gca_core.matrix.normalise import log_normalise

log = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float32]
Cells = Iterable[CountBatch] | npt.NDArray[np.floating] | sp.csr_matrix
# the checkpoint of a long training is written anew after so many epochs, if the weights got better
CHECKPOINT_EPOCHS = 10


class HeldOutLoss(BaseModel, frozen=True):
    """Means per cell in nats.

    Args:
        n_cells: cells.
        nll: negative log-likelihood given one draw from the posterior: the reconstruction error.
        kl: KL divergence of the posterior from the prior.
    """

    n_cells: int
    nll: float
    kl: float

    @property
    def negative_elbo(self) -> float:
        """The sum of both."""
        return self.nll + self.kl


class ModelAdapter(Protocol):
    """A model that learns a latent space from counts. Another framework is another implementation."""

    @property
    def registry(self) -> Registry:
        """Genes, batches and labels that the model was fitted to."""
        ...

    def fit(self, source: BatchSource) -> TrainingHistory:
        """Learn from the training batches."""
        ...

    def predict(self, batches: Cells, *, registry: Registry | None = None) -> FloatArray:
        """Latent means (cells, latent) of cells whose genes and batches ``registry`` names."""
        ...

    def save(self, uri: str) -> str:
        """Write a checkpoint folder and return its URI."""
        ...

    @classmethod
    def load(cls, uri: str) -> Self:
        """Read a checkpoint folder."""
        ...


class TorchVAE:
    """A VAE with a Gaussian latent and a count likelihood, in torch.

    The model is that of scVI (Lopez et al. 2018, doi:10.1038/s41592-018-0229-2) with the library size
    observed: z ~ N(0, 1), and counts ~ NB or ZINB with mean library x softmax(decoder(z, batch)) and one
    inverse dispersion per gene, or per gene and batch. With a label head, a linear classifier on z is trained
    along with it from the labelled training cells, as in scANVI (Xu et al. 2021, doi:10.15252/msb.20209620) but
    without its mixture of priors.

    Args:
        config: sizes and training options.
        likelihood: replaces the log-likelihood that ``config.likelihood`` names.
    """

    def __init__(self, config: LatentConfig, *, likelihood: CountLikelihood | None = None) -> None:
        self.config = config
        self.architecture = Architecture.of(config)
        self._device = device_of(config)
        self._likelihood = likelihood or LIKELIHOODS[config.likelihood]
        self._fitted: tuple[VAE, Registry] | None = None

    @property
    def registry(self) -> Registry:
        """Genes, batches and labels that the model was fitted to."""
        return self._parts()[1]

    def fit(
        self,
        source: BatchSource,
        *,
        on_epoch: Callable[[EpochRecord], None] | None = None,
        checkpoint_uri: str | None = None,
    ) -> TrainingHistory:
        """Learn from the training batches, watching the validation batches.

        Labels are seen by the label head alone, if there is one. The weights of the epoch with the best held-out
        ELBO after the KL warm-up are kept.

        Args:
            source: the cells.
            on_epoch: told of each epoch.
            checkpoint_uri: folder that holds the best weights so far every ten epochs, and when the training is
                interrupted.

        Raises:
            DataValidationError: the loss became infinite or NaN, or a label head has fewer than two labels.
        """
        registry = source.registry
        if self.architecture.label_head and len(registry.labels) < 2:
            raise DataValidationError(
                f"the label head needs two labels among the training cells; found {_listed(registry.labels) or 'none'}"
            )
        with reproducible(self.config.seed, self.config.threads, self._device):
            vae = _build(self.architecture, registry)
            _start_at_mean_expression(vae, source, self.architecture.likelihood)
            trainer = Trainer(vae.to(self._device), self._likelihood, self.config)
            saver = _Saver(trainer, checkpoint_uri, self.architecture, registry)

            def note(record: EpochRecord, better: bool) -> None:
                saver.epoch(record, better)
                if on_epoch is not None:
                    on_epoch(record)

            try:
                history = trainer.run(source, note)
            except KeyboardInterrupt:
                saver.save()
                raise
        self._fitted = (vae.eval(), registry)
        return history

    def predict(self, batches: Cells, *, registry: Registry | None = None) -> FloatArray:
        """Latent means (cells, latent).

        Args:
            batches: cells, as batches or as a matrix (cells, genes) of counts in the model's gene order.
            registry: names genes and batches of the cells; None means the genes are the model's own.

        Raises:
            DataValidationError: the model isn't fitted, the genes aren't the ones it was fitted to, or its encoder
                sees batches and one of the cells' isn't its own.
        """
        means = [part.numpy() for part in self._posterior_means(batches, registry)]
        return np.concatenate(means) if means else np.zeros((0, self.architecture.latent_dim), dtype=np.float32)

    def predict_labels(self, batches: Cells, *, registry: Registry | None = None) -> FloatArray:
        """Probabilities by the label head, (cells, labels), in the order of the model's ``registry.labels``.

        Raises:
            DataValidationError: the model has no label head; or as for :meth:`predict`.
        """
        vae, own = self._parts()
        if vae.classifier is None:
            raise DataValidationError("the model has no label head; train it with label_head on")
        with torch.no_grad():
            logits = vae.classifier(torch.from_numpy(self.predict(batches, registry=registry)).to(self._device))
        result: FloatArray = logits.softmax(dim=1).cpu().numpy().reshape(-1, len(own.labels))
        return result

    def held_out_loss(self, batches: Cells, *, registry: Registry | None = None) -> HeldOutLoss:
        """Held-out ELBO and reconstruction of cells, with one draw from each posterior.

        Raises:
            DataValidationError: there are no cells; or as for :meth:`predict`.
        """
        vae, _ = self._parts()
        cells = 0

        def counted() -> Iterator[TensorBatch]:
            nonlocal cells
            for batch in self._tensor_batches(batches, registry):
                cells += batch.counts.shape[0]
                yield batch

        with reproducible(self.config.seed, self.config.threads, self._device):
            try:
                nll, kl = _validation_loss(vae, self._likelihood, counted(), self.config)
            except ZeroDivisionError:
                raise DataValidationError("there are no cells to compute a held-out loss of") from None
        return HeldOutLoss(n_cells=cells, nll=nll, kl=kl)

    def save(self, uri: str) -> str:
        """Write the weights and the registry to the folder ``uri``; returns its URI."""
        vae, registry = self._parts()
        return save_checkpoint(uri, vae.state_dict(), self.architecture, registry)

    @classmethod
    def load(cls, uri: str, *, device: str = "cpu") -> Self:
        """Read a checkpoint folder.

        Args:
            uri: the folder.
            device: ``cpu``, ``cuda`` or ``auto``.

        Raises:
            DataValidationError: a file is missing, truncated, or doesn't belong to the registry.
        """
        state, architecture, registry = load_checkpoint(uri)
        options = architecture.model_dump() | {"labels_key": registry.label_key, "device": device}
        model = cls(LatentConfig(input_uri=uri, output_uri=uri, **options))
        vae = _build(architecture, registry)
        try:
            vae.load_state_dict(state)
        except RuntimeError as error:
            raise DataValidationError(f"the weights in {uri!r} don't fit their registry: {error}") from None
        model._fitted = (vae.to(model._device).eval(), registry)
        return model

    def _parts(self) -> tuple[VAE, Registry]:
        if self._fitted is None:
            raise DataValidationError("the model has no weights yet; call fit, or load a checkpoint")
        return self._fitted

    def _posterior_means(self, batches: Cells, registry: Registry | None) -> Iterator[torch.Tensor]:
        vae, _ = self._parts()
        with reproducible(self.config.seed, self.config.threads, self._device), torch.no_grad():
            for batch in self._tensor_batches(batches, registry):
                yield vae.encode(batch.counts, batch.batch_codes).mean.cpu()

    def _tensor_batches(self, batches: Cells, registry: Registry | None) -> Iterator[TensorBatch]:
        """The cells with the model's own batch codes."""
        vae, own = self._parts()
        if registry is not None:
            require_same_genes(own.genes, registry.genes)
        found = registry.batches if registry is not None else ()
        codes = _own_batch_codes(own.batches, found, required=vae.covariate_layer is not None)
        if isinstance(batches, np.ndarray | sp.csr_matrix):
            batches = _matrix_batches(batches, len(own.genes), self.config.batch_size)
        vae.eval()
        for batch in batches:
            # code -1 reaches the last entry, which stands for unknown batches
            yield TensorBatch.of(CountBatch(batch.counts, codes[batch.batch_codes], batch.label_codes), self._device)


class _Saver:
    """Keeps a checkpoint of the best weights on disk while a training goes on."""

    def __init__(self, trainer: Trainer, uri: str | None, architecture: Architecture, registry: Registry) -> None:
        self._trainer, self._uri = trainer, uri
        self._architecture, self._registry = architecture, registry
        self._unsaved = False

    def epoch(self, record: EpochRecord, better: bool) -> None:
        """Note an epoch; the best weights are written every ten epochs after the warm-up."""
        self._unsaved = self._unsaved or better
        if self._unsaved and record.kl_weight == 1 and record.epoch % CHECKPOINT_EPOCHS == 0:
            self.save()

    def save(self) -> None:
        """Write the best weights; a failure leaves the checkpoint that was there, and the training goes on."""
        if self._uri is None or self._trainer.best_state is None:
            return
        try:
            save_checkpoint(self._uri, self._trainer.best_state, self._architecture, self._registry)
            self._unsaved = False
        except (GcaError, OSError) as error:
            log.warning("the checkpoint wasn't written, the former one stays: %s", error)


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


def _own_batch_codes(own: Sequence[str], found: Sequence[str], *, required: bool) -> npt.NDArray[np.int64]:
    """The model's code of each batch of the data, and at last -1 for cells without one.

    A model with fewer than two batches doesn't look at them. Unknown batches are refused if ``required``.
    """
    if len(own) < 2:
        return np.zeros(len(found) + 1, dtype=np.int64)
    unknown = [name for name in found if name not in own]
    if required and (unknown or not found):
        raise DataValidationError(
            f"the model was fitted with the batches {_listed(own)}; the data have {_listed(unknown) or 'none'}; "
            "set batch_key to a column with batches the model knows, or train anew with these cells"
        )
    codes = [own.index(name) if name in own else -1 for name in found]
    return np.array([*codes, -1], dtype=np.int64)


def _matrix_batches(
    counts: npt.NDArray[np.floating] | sp.csr_matrix, n_genes: int, batch_size: int
) -> Iterator[CountBatch]:
    if counts.ndim != 2 or counts.shape[1] != n_genes:
        raise DataValidationError(
            f"the matrix has shape {counts.shape}; expected cells x {n_genes} genes in the order of the model's "
            "registry.json"
        )
    matrix = sp.csr_matrix(counts, dtype=np.float32)
    matrix.eliminate_zeros()
    if matrix.nnz and (not np.isfinite(matrix.data).all() or matrix.data.min() < 0):
        raise DataValidationError("the matrix holds negative, NaN or infinite values; expected raw counts")
    for part in equal_parts(np.arange(matrix.shape[0]), batch_size):
        yield CountBatch(matrix[part], np.full(len(part), -1, dtype=np.int64))


def _listed(names: Sequence[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def _build(architecture: Architecture, registry: Registry) -> VAE:
    return VAE(
        architecture,
        n_genes=len(registry.genes),
        n_batches=len(registry.batches),
        n_labels=len(registry.labels) if architecture.label_head else 0,
    )


def _start_at_mean_expression(vae: VAE, source: BatchSource, likelihood: str) -> None:
    """Let the decoder start from each gene's mean instead of from equal ones."""
    totals, cells = np.zeros(len(source.registry.genes)), 0
    for batch in source.iter_train_batches(0):
        values = log_normalise(batch.counts, GAUSSIAN_TARGET_SUM) if likelihood == "gaussian" else batch.counts
        totals += np.asarray(values.sum(axis=0), dtype=np.float64).ravel()
        cells += values.shape[0]
    shares = (totals + 1) / (totals + 1).sum()
    start = totals / max(cells, 1) if likelihood == "gaussian" else np.log(shares)
    with torch.no_grad():
        vae.proportion_head.bias.copy_(torch.from_numpy(start))
