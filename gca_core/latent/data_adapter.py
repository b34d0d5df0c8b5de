"""From a file to counts, a registry of what they are, a split, and batches."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import anndata as ad
import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse as sp
from pydantic import BaseModel, ConfigDict

from gca_core.errors import DataValidationError
from gca_core.io import local_copy
from gca_core.latent.config import LatentConfig
from gca_core.matrix.kinds import MatrixKind, classify_matrix, matrix_kinds, require_counts, to_csr
from gca_core.matrix.normalise import recover_counts

log = logging.getLogger(__name__)

MIN_CELLS = 50
LISTED = 5
IntArray = npt.NDArray[np.int64]


class Registry(BaseModel):
    """What the rows and columns of the counts are.

    Args:
        genes: gene names in column order.
        counts_from: the matrix the counts come from.
        recovered: whether they were recovered from log-normalised values.
        batch_key: column of obs with the batches, if any.
        batches: batch names in code order; empty without ``batch_key``.
        label_key: column of obs with the labels, if any.
        labels: the labels after ``label_map``, sorted.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

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
        batch_codes: (cells,) indices into the registry's batches; zeros without batches.
    """

    counts: sp.csr_matrix
    batch_codes: IntArray


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
    """The cells of an h5ad file as the model sees them.

    Args:
        config: where the data lie and how to read them.

    Raises:
        DataValidationError: no such file, no counts, a column missing, or too few cells or classes.
    """

    def __init__(self, config: LatentConfig) -> None:
        self.config = config
        adata = read_cells(config.input_uri)
        counts, genes, source = _counts_of(adata, config)
        _check_counts(counts, genes)
        batch_names, self.batch_codes = _batches(adata.obs, config.batch_key)
        self.labels: npt.NDArray[np.object_] | None = None
        if config.label_key is not None:
            self.labels = mapped_labels(adata.obs, config.label_key, config.label_map)
        self.counts: sp.csr_matrix = counts.astype(np.float32)
        self.counts.eliminate_zeros()
        self.obs: pd.DataFrame = adata.obs
        self.registry = Registry(
            genes=genes,
            counts_from=source,
            recovered=config.recover_counts,
            batch_key=config.batch_key,
            batches=batch_names,
            label_key=config.label_key,
            labels=tuple(sorted({str(x) for x in self.labels if x is not None})) if self.labels is not None else (),
        )
        self.train_cells, self.val_cells = stratified_split(self.batch_codes, config.validation_fraction, config.seed)

    def iter_train_batches(self, epoch: int = 0) -> Iterator[CountBatch]:
        """Training cells in an order that depends on the seed and the epoch alone."""
        order = np.random.default_rng([self.config.seed, epoch]).permutation(self.train_cells)
        return self._batches_of(order)

    def iter_val_batches(self) -> Iterator[CountBatch]:
        """Validation cells in file order."""
        return self._batches_of(self.val_cells)

    def iter_batches(self) -> Iterator[CountBatch]:
        """All cells in file order."""
        return self._batches_of(np.arange(self.counts.shape[0]))

    def dataset_info(self) -> dict[str, Any]:
        """Sizes and provenance, as JSON data."""
        cells, genes = self.counts.shape
        return {
            "n_cells": int(cells),
            "n_genes": int(genes),
            "n_train": len(self.train_cells),
            "n_validation": len(self.val_cells),
            "n_batches": len(self.registry.batches),
            "n_labels": len(self.registry.labels),
            "density": round(self.counts.nnz / (cells * genes), 4),
            "median_library_size": float(np.median(library_size(self.counts))),
            "counts_from": self.registry.counts_from,
            "recovered": self.registry.recovered,
        }

    def _batches_of(self, cells: IntArray) -> Iterator[CountBatch]:
        # parts of nearly equal size: no batch of one cell is left over
        parts = np.array_split(cells, -(-len(cells) // self.config.batch_size))
        return (CountBatch(self.counts[part], self.batch_codes[part]) for part in parts)


def read_cells(uri: str) -> ad.AnnData:
    """Read an h5ad file.

    Raises:
        DataValidationError: no such file, or not an h5ad file.
    """
    with local_copy(uri, what="input") as path:
        try:
            with warnings.catch_warnings():
                # old files keep their neighbour graphs elsewhere; they aren't used here
                warnings.simplefilter("ignore", FutureWarning)
                return ad.read_h5ad(path)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise DataValidationError(f"the input {uri!r} can't be read as h5ad: {error}") from None


def library_size(counts: sp.csr_matrix) -> npt.NDArray[np.float64]:
    """Counts per cell, (cells,)."""
    return np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()


def stratified_split(strata: IntArray, fraction: float, seed: int) -> tuple[IntArray, IntArray]:
    """Split cells into training and validation, each stratum by the same share.

    A stratum of one cell goes to training. At least one cell is held out.

    Args:
        strata: (cells,) codes, here those of the batches: labels have no part in it.
        fraction: share held out.
        seed: decides which cells.

    Returns:
        Sorted indices of the training and of the validation cells.
    """
    rng = np.random.default_rng(seed)
    members = [rng.permutation(np.flatnonzero(strata == code)) for code in np.unique(strata)]
    held_out = [cells[: min(round(len(cells) * fraction), len(cells) - 1)] for cells in members]
    if not any(len(cells) for cells in held_out):
        held_out = [max(members, key=len)[:1]]
    validation = np.sort(np.concatenate(held_out))
    return np.setdiff1d(np.arange(len(strata)), validation), validation


def mapped_labels(obs: pd.DataFrame, key: str, label_map: dict[str, str | None] | None) -> npt.NDArray[np.object_]:
    """Labels of the cells, (cells,), None where a cell has none or its label is mapped to null.

    Raises:
        DataValidationError: no such column, or labels that the map lacks.
    """
    column = _column(obs, key, "label_key")
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


def _batches(obs: pd.DataFrame, key: str | None) -> tuple[tuple[str, ...], IntArray]:
    if key is None:
        return (), np.zeros(len(obs), dtype=np.int64)
    column = _column(obs, key, "batch_key")
    if column.isna().any():
        raise DataValidationError(
            f"{int(column.isna().sum())} cells have no batch in obs column {key!r}; fill it or leave these cells out"
        )
    names, codes = np.unique(column.astype(str).to_numpy(dtype=str), return_inverse=True)
    return tuple(map(str, names)), codes.astype(np.int64)


def _counts_of(adata: ad.AnnData, config: LatentConfig) -> tuple[sp.csr_matrix, tuple[str, ...], str]:
    source = config.counts_layer or (_log_normalised_place(adata) if config.recover_counts else "X")
    if source == "raw" and adata.raw is None:
        raise DataValidationError(f"counts_layer is 'raw', but the input has no raw; found {_places(adata)}")
    genes = tuple(map(str, adata.raw.var_names if source == "raw" else adata.var_names))
    if config.recover_counts:
        return _recovered(adata, source), genes, source
    try:
        if source == "raw":
            return _raw_counts(adata), genes, source
        return require_counts(adata, None if source == "X" else source), genes, source
    except DataValidationError as error:
        raise DataValidationError(f"{error}. {_advice(adata)}") from None


def _recovered(adata: ad.AnnData, source: str) -> sp.csr_matrix:
    if source not in {"X", "raw"} and source not in adata.layers:
        raise DataValidationError(f"there is no layer {source!r}; found {_places(adata)}")
    values = {"X": adata.X, "raw": adata.raw.X if adata.raw is not None else None}.get(source)
    values = adata.layers[source] if source not in {"X", "raw"} else values
    if values is None:
        raise DataValidationError(f"{source} is empty; found {_places(adata)}")
    try:
        counts = recover_counts(values)
    except DataValidationError as error:
        raise DataValidationError(f"recover_counts on {source}: {error}. {_advice(adata)}") from None
    log.info("counts recovered from the log-normalised %s", source)
    return counts


def _raw_counts(adata: ad.AnnData) -> sp.csr_matrix:
    kind = classify_matrix(adata.raw.X)
    if kind is not MatrixKind.COUNTS:
        raise DataValidationError(f"raw is {kind.value}, but raw counts are needed")
    return to_csr(adata.raw.X)


def _log_normalised_place(adata: ad.AnnData) -> str:
    kinds = matrix_kinds(adata)
    for place in ("X", "raw"):
        if kinds.get(place) is MatrixKind.LOG_NORMALISED:
            return place
    raise DataValidationError(
        f"recover_counts needs log-normalised values in X or raw; found {_places(adata)}. {_advice(adata)}"
    )


def _places(adata: ad.AnnData) -> str:
    return ", ".join(f"{place} ({kind.value})" for place, kind in matrix_kinds(adata).items()) or "no matrix"


def _advice(adata: ad.AnnData) -> str:
    kinds = {place.removeprefix("layers/"): kind for place, kind in matrix_kinds(adata).items()}
    counts = [place for place, kind in kinds.items() if kind is MatrixKind.COUNTS]
    if counts:
        return f"set counts_layer to {' or '.join(map(repr, counts))} and leave recover_counts off"
    logged = [place for place, kind in kinds.items() if kind is MatrixKind.LOG_NORMALISED]
    if logged:
        return f"set counts_layer to {' or '.join(map(repr, logged))} and recover_counts to true to recover the counts"
    return "take a file that holds counts"


def _check_counts(counts: sp.csr_matrix, genes: Sequence[str]) -> None:
    cells = counts.shape[0]
    if cells < MIN_CELLS:
        raise DataValidationError(f"the input has {cells} cells; a latent model needs at least {MIN_CELLS}")
    repeated = sorted(gene for gene, n in Counter(genes).items() if n > 1)
    if repeated:
        raise DataValidationError(
            f"gene names repeat: {_some(repeated)}; make them unique with adata.var_names_make_unique()"
        )
    empty = int((library_size(counts) == 0).sum())
    if empty:
        raise DataValidationError(
            f"{empty} of {cells} cells have no counts; leave them out with scanpy.pp.filter_cells(adata, min_counts=1)"
        )


def _some(names: Sequence[str]) -> str:
    listed = ", ".join(map(repr, names[:LISTED]))
    return listed if len(names) <= LISTED else f"{listed} and {len(names) - LISTED} more"
