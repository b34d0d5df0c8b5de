"""The predictor: the query's cells generated twice per seed, under the prompt and under its control."""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import anndata as ad
import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from gca_core import io
from gca_core.errors import DataValidationError, MissingModelError
from gca_core.inference.inputs import PAIR, Inputs, read_inputs
from gca_core.inference.models import InferenceRequest
from gca_core.inference.prediction import average, write_prediction
from gca_core.inference.predictor import NEEDS_MODEL
from gca_core.inference.stack.checkpoint import load_model, require_stack
from gca_core.inference.stack.generate import MODE, as_cells, generate, query_slots, with_halving
from gca_core.inference.stack.genes import read_gene_list
from gca_core.matrix.places import require_counts

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Loaded:
    source: tuple[str, str]
    model: Any
    genes: tuple[str, ...]
    sha256: str


@dataclass(frozen=True)
class _Places:
    """Where the genes that model, query and prompt share lie in query and prompt; ``names`` in capitals."""

    names: list[str]
    query: npt.NDArray[np.int64]
    prompt: npt.NDArray[np.int64]


class StackPredictor:
    """Generates the query's cells in the context of the prompt's, with a checkpoint of arc-stack.

    A checkpoint stays loaded for the next request of a job.
    """

    def __init__(self) -> None:
        self._loaded: _Loaded | None = None
        self._name = "arc-stack"

    @property
    def model(self) -> str:
        """The version of arc-stack, and the checkpoint with its hash, once it is known."""
        return self._name

    def validate(self, request: InferenceRequest) -> None:
        """Check the files and load the checkpoint.

        Raises:
            DataValidationError: a file of cells or the gene list is missing or doesn't fit.
            MissingModelError: arc-stack or the checkpoint is missing, or can't generate.
        """
        loaded = self._load(request)
        _places(read_inputs(request), loaded.genes)

    def predict(self, request: InferenceRequest) -> dict[str, float]:
        """Write the predicted cells and their synthetic control, and return figures about them.

        Raises:
            DataValidationError: a file is missing or doesn't fit.
            MissingModelError: the checkpoint is missing, or can't generate.
            MemoryExhaustedError: not even one window fits into the memory.
        """
        loaded, inputs = self._load(request), read_inputs(request)
        run = _Run(loaded, inputs, request)
        control = average(run.draws(inputs.control, "control prompt"))
        predicted = average(run.draws(inputs.prompt, "prompt"))
        metrics = {
            "n_cells": float(inputs.query.n_obs),
            "n_pairs": float(inputs.prompt.obs[PAIR].nunique()),
            "n_genes_shared": float(len(run.places.query)),
            "n_windows": float(run.n_windows),
            "batch_size": float(run.batch_size),
        }
        genes = np.zeros(inputs.query.n_vars, dtype=bool)
        genes[run.places.query] = True
        record = {
            "model": self.model,
            "metrics": metrics,
            "diffusion_steps": request.diffusion_steps,
            "mode": MODE,
            "device": str(next(loaded.model.parameters()).device),
            "checkpoint": str(request.checkpoint),
            "checkpoint_sha256": loaded.sha256,
        }
        write_prediction(inputs.query, predicted, request, genes=genes, record=record, control=control)
        return metrics

    def _load(self, request: InferenceRequest) -> _Loaded:
        if request.checkpoint is None or request.gene_list_uri is None:
            raise MissingModelError(NEEDS_MODEL)
        if self._loaded is None or self._loaded.source != (request.checkpoint, request.gene_list_uri):
            self._loaded = None
            require_stack("stack.model_loading")
            for uri, what in ((request.checkpoint, "checkpoint"), (request.gene_list_uri, "gene list")):
                if not io.as_path(uri).exists():
                    raise MissingModelError(f"the {what} {uri!r} does not exist; check the path or URI")
            genes = read_gene_list(request.gene_list_uri)
            with io.local_copy(request.checkpoint, what="checkpoint") as path:
                model, sha256 = load_model(path, len(genes), request.checkpoint), io.sha256_file(path)
            self._loaded = _Loaded((request.checkpoint, request.gene_list_uri), model, genes, sha256)
            name = io.as_path(request.checkpoint).name
            self._name = f"arc-stack {metadata.version('arc-stack')}, {name} {sha256[:12]}"
            log.info("stack: loaded %s, %d genes, windows of %d cells", self._name, len(genes), model.n_cells)
        return self._loaded


def _places(inputs: Inputs, genes: tuple[str, ...]) -> _Places:
    sides = [{str(name).upper(): i for i, name in enumerate(data.var_names)} for data in (inputs.query, inputs.prompt)]
    shared = [gene for gene in genes if all(gene in side for side in sides)]
    if not shared:
        raise DataValidationError(
            f"of the model's {len(genes)} genes none is in both query and prompt; check that their var_names are gene "
            "symbols and the gene list is that of the checkpoint"
        )
    if len(shared) < len(genes) / 2:
        log.warning("stack: only %d of the model's %d genes are in query and prompt", len(shared), len(genes))
    return _Places(shared, *(np.array([side[gene] for gene in shared]) for side in sides))


class _Run:
    """One request on a loaded model; remembers the batch size that fits."""

    def __init__(self, loaded: _Loaded, inputs: Inputs, request: InferenceRequest) -> None:
        self.loaded, self.request = loaded, request
        self.places = _places(inputs, loaded.genes)
        self.batch_size = request.batch_size
        self.counts = require_counts(inputs.query).astype(np.int64)
        self.query = as_cells(self.counts[:, self.places.query], self.places.names)
        self.n_windows = -(-self.query.n_obs // query_slots(loaded.model.n_cells))

    def draws(self, prompt: ad.AnnData, what: str) -> Iterator[sp.csr_matrix]:
        """The query under a prompt, once per seed; genes that the model doesn't know keep the query's counts."""
        pairs = prompt.obs[PAIR].astype(str).to_numpy()
        counts = require_counts(prompt)[:, self.places.prompt]
        n = max(len(pairs), self.loaded.model.n_cells)
        for place, seed in enumerate(self.request.seeds, start=1):
            begun = time.monotonic()
            rows = draw_by_weight(pairs, self.request.pair_weights, n, np.random.default_rng(seed))
            made = self._generate(as_cells(counts[rows], self.places.names), seed)
            took, of = time.monotonic() - begun, len(self.request.seeds)
            log.info("stack: %s, seed %d (%d of %d): %d windows in %.1f s", what, seed, place, of, self.n_windows, took)
            yield self._filled(made)

    def _generate(self, base: ad.AnnData, seed: int) -> sp.csr_matrix:
        def attempt(batch_size: int) -> sp.csr_matrix:
            steps = self.request.diffusion_steps
            model, genes = self.loaded.model, self.loaded.genes
            return generate(model, genes, base, self.query, steps=steps, batch_size=batch_size, seed=seed)

        made, self.batch_size = with_halving(attempt, self.batch_size)
        return made

    def _filled(self, made: sp.csr_matrix) -> sp.csr_matrix:
        others = np.setdiff1d(np.arange(self.counts.shape[1]), self.places.query)
        both = sp.csc_matrix(sp.hstack([made, self.counts[:, others]]))
        return sp.csr_matrix(both[:, np.argsort(np.concatenate([self.places.query, others]))], dtype=np.int64)


def draw_by_weight(
    pairs: npt.NDArray[Any], weights: dict[str, float], n: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """``n`` rows, of each pair as many as its weight asks for (equal where empty); rows repeat once a pair is used up.

    Args:
        pairs: (n_cells,), the pair of each row.
        weights: of pairs; those that are absent get none.
        n: rows wanted.
        rng: decides which rows.
    """
    names = sorted(set(pairs))
    share = np.array([weights.get(name, 0.0) if weights else 1.0 for name in names])
    exact = n * share / share.sum()
    wanted = np.floor(exact).astype(int)
    # largest remainders get what rounding left
    wanted[np.argsort(wanted - exact, kind="stable")[: n - wanted.sum()]] += 1
    rows = [np.resize(rng.permutation(np.flatnonzero(pairs == name)), k) for name, k in zip(names, wanted, strict=True)]
    return np.concatenate(rows)
