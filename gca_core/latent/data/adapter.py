"""From a file to counts, a registry of what they are, a split, and batches."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse as sp
from pydantic import BaseModel

from gca_core.errors import DataValidationError
from gca_core.latent.config import LatentConfig
from gca_core.latent.data.count_store import (
    BYTES_PER_COUNT,
    CountStore,
    MemoryStore,
    ScratchStore,
    equal_parts,
    memory_store,
)
from gca_core.latent.data.gene_selection import select_genes
from gca_core.latent.data.sources import GIB, CellSource, memory_left, open_source
from gca_core.latent.data.splits import split_cells
from gca_core.threads import prefetch

log = logging.getLogger(__name__)

MIN_CELLS = 50
LISTED = 5
# genes are chosen on so many training cells at most
SELECTION_CELLS = 20_000
# what training takes besides the counts: buffers, weights, libraries loaded late
HEADROOM = 0.5 * GIB
IntArray = npt.NDArray[np.int64]
# columns of obs in the cells that a run writes
LABEL_COLUMN = "latent_label"
SPLIT_COLUMN = "latent_split"


class Registry(BaseModel, extra="forbid", frozen=True):
    """What the rows and columns of the counts are.

    Args:
        genes: names of the chosen genes in column order.
        counts_from: the matrix the counts come from.
        recovered: whether they were recovered from log-normalised values.
        batch_key: column of obs with the batches, if any.
        batches: names of the batches of the training and validation cells in code order; empty without
            ``batch_key``.
        label_key: column of obs with the labels, if any.
        labels: the labels of the training cells after ``label_map``, sorted.
    """

    genes: tuple[str, ...]
    counts_from: str
    recovered: bool
    batch_key: str | None = None
    batches: tuple[str, ...] = ()
    label_key: str | None = None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class CountBatch:
    """Some cells.

    Args:
        counts: (cells, genes) float32 CSR without stored zeros.
        batch_codes: (cells,) indices into the registry's batches, -1 for batches that aren't there; zeros
            without batches.
        label_codes: (cells,) indices into the registry's labels, -1 for cells without one of these; None
            without labels.
    """

    counts: sp.csr_matrix
    batch_codes: IntArray
    label_codes: IntArray | None = None


class BatchSource(Protocol):
    """What a model is fitted to."""

    @property
    def registry(self) -> Registry:
        """Genes, batches and labels."""
        ...

    def iter_train_batches(self, epoch: int = 0) -> Iterator[CountBatch]:
        """Training cells in an order that depends on the seed and the epoch alone."""
        ...

    def iter_val_batches(self) -> Iterator[CountBatch]:
        """Validation cells, always in the same order."""
        ...


class DataAdapter:
    """The cells of a file as the model sees them.

    Genes are chosen on training cells alone. A file that doesn't fit in ``max_ram_usage_gb`` is read in parts, and
    its chosen counts are kept in memory or, if they don't fit either, in a temporary file.

    Args:
        config: where the data lie and how to read them.
        genes: take these columns instead of the highly variable genes, e.g. those of a trained model; all have to
            be there.

    Raises:
        DataValidationError: no such file, no counts, a column missing, or too few cells or classes.
    """

    def __init__(self, config: LatentConfig, *, genes: Sequence[str] | None = None) -> None:
        self.config = config
        with open_source(config) as source:
            self.obs: pd.DataFrame = source.obs
            _check_names(source)
            codes = _stratum_codes(self.obs, config.batch_key)
            split = split_cells(self.obs, codes, config)
            self.train_cells, self.val_cells, self.test_cells = split.train, split.validation, split.test
            self.labels: npt.NDArray[np.object_] | None = None
            if config.labels_key is not None:
                self.labels = mapped_labels(self.obs, config.labels_key, config.label_map)
            survey = _survey(source, self._selection_cells())
            self.library: npt.NDArray[np.float64] = survey.library
            chosen = self._chosen_columns(source, survey, codes, genes)
            self._store = _stored(source, survey, chosen, memory_left(config) - HEADROOM)
            names = np.array(source.genes, dtype=object)[chosen]
            place = source.place
        batches, self.batch_codes = _known_codes(
            _batch_names(self.obs, config.batch_key), self._fitted_cells(), self.n_cells
        )
        labels, self.label_codes = _known_codes(self.labels, self.train_cells, self.n_cells)
        self.registry = Registry(
            genes=tuple(map(str, names)),
            counts_from=place,
            recovered=config.recover_counts,
            batch_key=config.batch_key,
            batches=batches,
            label_key=config.labels_key,
            labels=labels,
        )

    @property
    def n_cells(self) -> int:
        """All cells."""
        return len(self.obs)

    @property
    def counts(self) -> sp.csr_matrix:
        """Counts of the chosen genes, (cells, genes) float32 CSR; read whole if they are in a file."""
        return self._store.counts if isinstance(self._store, MemoryStore) else self.rows(np.arange(self.n_cells))

    @property
    def in_memory(self) -> bool:
        """Whether the chosen counts are in memory."""
        return isinstance(self._store, MemoryStore)

    def rows(self, cells: IntArray) -> sp.csr_matrix:
        """Counts of the chosen genes of some cells in the order given, float32 CSR."""
        return self._store.rows(cells)

    def iter_train_batches(self, epoch: int = 0) -> Iterator[CountBatch]:
        """Training cells in an order that depends on the seed and the epoch alone."""
        rng = np.random.default_rng([self.config.seed, epoch])
        return self._batches_of(self._store.shuffled(self.train_cells, self.config.batch_size, rng))

    def iter_val_batches(self) -> Iterator[CountBatch]:
        """Validation cells in file order."""
        return self.iter_cells(self.val_cells)

    def iter_test_batches(self) -> Iterator[CountBatch]:
        """Test cells in file order."""
        return self.iter_cells(self.test_cells)

    def iter_batches(self) -> Iterator[CountBatch]:
        """All cells in file order."""
        return self.iter_cells(np.arange(self.n_cells))

    def iter_cells(self, cells: IntArray) -> Iterator[CountBatch]:
        """Some cells in the order given."""
        return self._batches_of(equal_parts(cells, self.config.batch_size))

    def dataset_info(self) -> dict[str, Any]:
        """Sizes and provenance, as JSON data."""
        genes = len(self.registry.genes)
        named = {str(label) for label in self.labels if label is not None} if self.labels is not None else set()
        return {
            "n_cells": self.n_cells,
            "n_genes": genes,
            "num_hvgs": genes,
            "n_train": len(self.train_cells),
            "n_validation": len(self.val_cells),
            "n_test": len(self.test_cells),
            "n_batches": len(self.registry.batches),
            "n_labels": len(named),
            "labels_not_in_training": sorted(named - set(self.registry.labels)),
            "density": round(self._store.n_counts / (self.n_cells * genes), 4),
            "median_library_size": float(np.median(self.library)),
            "counts_from": self.registry.counts_from,
            "recovered": self.registry.recovered,
            "in_memory": self.in_memory,
        }

    def _fitted_cells(self) -> IntArray:
        return np.concatenate([self.train_cells, self.val_cells])

    def _selection_cells(self) -> IntArray:
        if self.config.n_top_genes is None or len(self.train_cells) <= SELECTION_CELLS:
            return self.train_cells
        rng = np.random.default_rng(self.config.seed)
        return np.sort(rng.choice(self.train_cells, SELECTION_CELLS, replace=False))

    def _chosen_columns(
        self, source: CellSource, survey: _Survey, codes: IntArray, genes: Sequence[str] | None
    ) -> IntArray:
        if genes is not None:
            places = {name: i for i, name in enumerate(source.genes)}
            missing = [name for name in genes if name not in places]
            if missing:
                raise DataValidationError(
                    f"the input lacks {len(missing)} of {len(genes)} genes asked for: {_some(missing)}; map the cells "
                    "with gca_core.latent.transfer.mapping, which counts missing genes, or add them"
                )
            return np.array([places[name] for name in genes], dtype=np.int64)
        if self.config.n_top_genes is None:
            return np.arange(len(source.genes))
        return select_genes(survey.sample, codes[self._selection_cells()], self.config.n_top_genes)

    def _batches_of(self, parts: Iterable[IntArray]) -> Iterator[CountBatch]:
        # the buffer of a file moves on with the parts, so only counts in memory are read by several threads
        return prefetch(self._batch_of, parts, self.config.loader_workers if self.in_memory else 1)

    def _batch_of(self, part: IntArray) -> CountBatch:
        labels = self.label_codes[part] if self.labels is not None else None
        return CountBatch(self.rows(part), self.batch_codes[part], labels)


@dataclass(frozen=True)
class _Survey:
    """What one pass over the cells finds: sums by cell, nonzero counts by gene, and some cells' counts."""

    library: npt.NDArray[np.float64]
    counts_by_gene: IntArray
    sample: sp.csr_matrix


def _survey(source: CellSource, sampled: IntArray) -> _Survey:
    libraries, kept, start = [], [], 0
    by_gene = np.zeros(len(source.genes), dtype=np.int64)
    for chunk in source.chunks():
        libraries.append(library_size(chunk))
        by_gene += np.bincount(chunk.indices, minlength=chunk.shape[1])
        first, last = np.searchsorted(sampled, [start, start + chunk.shape[0]])
        kept.append(chunk[sampled[first:last] - start])
        start += chunk.shape[0]
    library = np.concatenate(libraries)
    empty = int((library == 0).sum())
    if empty:
        raise DataValidationError(
            f"{empty} of {start} cells have no counts; leave them out with scanpy.pp.filter_cells(adata, min_counts=1)"
        )
    return _Survey(library, by_gene, kept[0] if len(kept) == 1 else sp.vstack(kept, format="csr"))


def _stored(source: CellSource, survey: _Survey, columns: IntArray, allowed: float) -> CountStore:
    n_cells, n_counts = len(survey.library), int(survey.counts_by_gene[columns].sum())
    chunks = (chunk[:, columns] if len(columns) < chunk.shape[1] else chunk for chunk in source.chunks())
    if n_counts * BYTES_PER_COUNT < allowed / 2:
        return memory_store(chunks, n_cells, len(columns), n_counts)
    log.info("the chosen counts take %.1f GiB; they are kept in a temporary file", n_counts * BYTES_PER_COUNT / GIB)
    return ScratchStore(chunks, len(columns))


def library_size(counts: sp.csr_matrix) -> npt.NDArray[np.float64]:
    """Counts per cell, (cells,)."""
    return np.asarray(counts.sum(axis=1, dtype=np.float64), dtype=np.float64).ravel()


def mapped_labels(obs: pd.DataFrame, key: str, label_map: dict[str, str | None] | None) -> npt.NDArray[np.object_]:
    """Labels of the cells, (cells,), None where a cell has none or its label is mapped to null.

    Raises:
        DataValidationError: no such column, or labels that the map lacks.
    """
    column = _column(obs, key, "labels_key")
    labels = np.array([None if pd.isna(value) else str(value) for value in column], dtype=object)
    if label_map is None:
        return labels
    unmapped = sorted({label for label in labels if label is not None} - set(label_map))
    if unmapped:
        raise DataValidationError(
            f"label_map lacks {_some(unmapped)} of obs column {key!r}; map each label, or to null to leave it out"
        )
    return np.array([None if label is None else label_map[label] for label in labels], dtype=object)


def _column(obs: pd.DataFrame, key: str, option: str) -> pd.Series[Any]:
    if key not in obs.columns:
        found = ", ".join(map(repr, obs.columns)) or "none"
        raise DataValidationError(f"obs has no column {key!r} for {option}; found {found}")
    return obs[key]


def _batch_names(obs: pd.DataFrame, key: str | None) -> npt.NDArray[np.object_] | None:
    if key is None:
        return None
    column = _column(obs, key, "batch_key")
    if column.isna().any():
        raise DataValidationError(
            f"{int(column.isna().sum())} cells have no batch in obs column {key!r}; fill it or leave these cells out"
        )
    return column.astype(str).to_numpy(dtype=object)


def _stratum_codes(obs: pd.DataFrame, key: str | None) -> IntArray:
    names = _batch_names(obs, key)
    if names is None:
        return np.zeros(len(obs), dtype=np.int64)
    return np.unique(names.astype(str), return_inverse=True)[1].astype(np.int64)


def _known_codes(
    names: npt.NDArray[np.object_] | None, fitted: IntArray, n_cells: int
) -> tuple[tuple[str, ...], IntArray]:
    """The names of the fitted cells, sorted, and each cell's code: -1 for other names, 0 without names."""
    if names is None:
        return (), np.zeros(n_cells, dtype=np.int64)
    known = tuple(sorted({str(name) for name in names[fitted] if name is not None}))
    codes = {name: code for code, name in enumerate(known)}
    return known, np.array([codes.get(str(name), -1) if name is not None else -1 for name in names], dtype=np.int64)


def _check_names(source: CellSource) -> None:
    cells = len(source.obs)
    if cells < MIN_CELLS:
        raise DataValidationError(f"the input has {cells} cells; a latent model needs at least {MIN_CELLS}")
    repeated = sorted(gene for gene, n in Counter(source.genes).items() if n > 1)
    if repeated:
        raise DataValidationError(
            f"gene names repeat: {_some(repeated)}; make them unique with adata.var_names_make_unique()"
        )


def _some(names: Sequence[str]) -> str:
    listed = ", ".join(map(repr, names[:LISTED]))
    return listed if len(names) <= LISTED else f"{listed} and {len(names) - LISTED} more"
