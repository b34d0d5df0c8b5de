"""The mean-shift backend: query + (perturbed mean - control mean), in log space, resampled to counts.

The shift is the difference of mean log1p(CP10k) between the prompt's perturbed and control cells,
taken within each pair and averaged over pairs, so that a pair with many cells of one type doesn't
mix its composition into another's response. Fast, deterministic, and hard to beat.
"""

from dataclasses import dataclass

import anndata as ad
import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from gca_core import __version__
from gca_core.errors import DataValidationError
from gca_core.inference.models import InferenceRequest
from gca_core.inference.prediction import average, write_prediction
from gca_core.inference.resample import draw, solve_rates
from gca_core.matrix.cells import read_h5ad
from gca_core.matrix.compare import pearson
from gca_core.matrix.normalise import log_normalise
from gca_core.matrix.places import only_genes, require_counts

PAIR = "pair"
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Inputs:
    prompt: ad.AnnData
    control: ad.AnnData
    query: ad.AnnData


class ShiftPredictor:
    """Predicts by adding the prompt's mean response to the query."""

    @property
    def model(self) -> str:
        """Name and version of the method."""
        return f"mean-shift {__version__}"

    def validate(self, request: InferenceRequest) -> None:
        """Check the three files: counts, cells, matching genes and pairs.

        Raises:
            DataValidationError: a file is missing or doesn't fit.
        """
        _check(_read(request), request)

    def predict(self, request: InferenceRequest) -> dict[str, float]:
        """Write the predicted cells and return the figures of the shift.

        Raises:
            DataValidationError: a file is missing or doesn't fit.
        """
        inputs = _read(request)
        _check(inputs, request)
        shift = paired_shift(inputs.prompt, inputs.control, request.pair_weights)
        # genes that the prompt lacks stay unchanged
        place = inputs.prompt.var_names.get_indexer(inputs.query.var_names)
        shift = np.where(place >= 0, shift[np.maximum(place, 0)], 0.0)
        counts = require_counts(inputs.query).astype(np.int64)
        means = _mean_log(counts)
        target = np.maximum(means + shift, 0.0)
        rates = solve_rates(counts, target)
        predicted = average(draw(counts, rates, np.random.default_rng(seed)) for seed in request.seeds)
        realised = _mean(predicted.log) - means
        metrics = {
            "n_cells": float(inputs.query.n_obs),
            "n_pairs": float(inputs.prompt.obs[PAIR].nunique()),
            "n_genes_shared": float((place >= 0).sum()),
            "n_genes_clipped": float(np.count_nonzero(means + shift < 0)),
            "n_genes_unreachable": float(np.count_nonzero(~rates.reachable)),
            "realised_pearson": pearson(realised, shift) if np.ptp(shift) > 0 and np.ptp(realised) > 0 else 0.0,
            "realised_rmse": float(np.sqrt(np.mean((realised - (target - means)) ** 2))),
        }
        record = {"model": self.model, "metrics": metrics}
        write_prediction(inputs.query, predicted, request, genes=place >= 0, record=record)
        return metrics


def paired_shift(prompt: ad.AnnData, control: ad.AnnData, weights: dict[str, float]) -> Array:
    """Mean over pairs of (mean perturbed - mean control) of log1p(CP10k), (n_genes,).

    Args:
        prompt: perturbed cells with ``obs["pair"]``.
        control: control cells with the same pairs and genes.
        weights: weight of each pair; all equal where empty.
    """
    pairs = sorted(prompt.obs[PAIR].astype(str).unique())
    share = np.array([weights.get(pair, 0.0) if weights else 1.0 for pair in pairs])
    treated, untreated = require_counts(prompt), require_counts(control)
    shifts = np.array(
        [
            _mean_log(treated[np.flatnonzero(prompt.obs[PAIR].astype(str) == pair)])
            - _mean_log(untreated[np.flatnonzero(control.obs[PAIR].astype(str) == pair)])
            for pair in pairs
        ]
    )
    return np.asarray(share @ shifts / share.sum())


def _read(request: InferenceRequest) -> _Inputs:
    names = ("prompt", "control", "query")
    files = {name: read_h5ad(getattr(request, f"{name}_uri"), what=f"{name} file") for name in names}
    return _Inputs(**{name: only_genes(file) for name, file in files.items()})


def _check(inputs: _Inputs, request: InferenceRequest) -> None:
    for name in ("prompt", "control", "query"):
        data: ad.AnnData = getattr(inputs, name)
        if not data.n_obs or not data.n_vars:
            raise DataValidationError(f"the {name} file holds {data.n_obs} cells and {data.n_vars} genes; needs both")
        if not data.var_names.is_unique:
            raise DataValidationError(f"the gene names of the {name} file are not unique; make them so first")
        require_counts(data)
    for name in ("prompt", "control"):
        if PAIR not in getattr(inputs, name).obs:
            raise DataValidationError(f"the {name} file lacks obs[{PAIR!r}], which matches it to the other side")
    if not inputs.prompt.var_names.equals(inputs.control.var_names):
        raise DataValidationError("the prompt and control files hold different genes; take both from one dataset")
    if not inputs.query.var_names.isin(inputs.prompt.var_names).any():
        raise DataValidationError("the query and the prompt share no gene; check that both use gene symbols")
    treated = set(inputs.prompt.obs[PAIR].astype(str))
    untreated = set(inputs.control.obs[PAIR].astype(str))
    if treated != untreated:
        odd = ", ".join(sorted(treated ^ untreated))
        raise DataValidationError(f"these pairs are on one side only: {odd}; every pair needs prompt and control cells")
    if request.pair_weights and sum(request.pair_weights.get(pair, 0.0) for pair in treated) <= 0:
        raise DataValidationError("the pair weights give no pair of the prompt a positive weight")


def _mean_log(counts: sp.csr_matrix) -> Array:
    return _mean(log_normalise(counts, dtype=np.float64))


def _mean(log: sp.csr_matrix) -> Array:
    return np.asarray(log.mean(axis=0, dtype=np.float64)).ravel()
