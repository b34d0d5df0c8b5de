"""The mean-shift backend: query + (perturbed mean - control mean), in log space, resampled to counts.

The shift is the difference of mean log1p(CP10k) between the prompt's perturbed and control cells,
taken within each pair and averaged over pairs, so that a pair with many cells of one type doesn't
mix its composition into another's response. Fast, deterministic, and hard to beat.
"""

import anndata as ad
import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from gca_core import __version__
from gca_core.inference.inputs import PAIR, read_inputs
from gca_core.inference.models import InferenceRequest
from gca_core.inference.prediction import average, write_prediction
from gca_core.inference.resample import draw, solve_rates
from gca_core.matrix.compare import pearson
from gca_core.matrix.normalise import TARGET_SUM
from gca_core.matrix.places import require_counts

Array = npt.NDArray[np.float64]


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
        read_inputs(request)

    def predict(self, request: InferenceRequest) -> dict[str, float]:
        """Write the predicted cells and return the figures of the shift.

        Raises:
            DataValidationError: a file is missing or doesn't fit.
        """
        inputs = read_inputs(request)
        shift = paired_shift(inputs.prompt, inputs.control, request.pair_weights)
        # genes that the prompt lacks stay unchanged
        place = inputs.prompt.var_names.get_indexer(inputs.query.var_names)
        shift = np.where(place >= 0, shift[np.maximum(place, 0)], 0.0)
        counts = require_counts(inputs.query)
        means = _mean_log(counts)
        target = np.maximum(means + shift, 0.0)
        rates = solve_rates(counts, means, target)
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


def _mean_log(counts: sp.csr_matrix) -> Array:
    """Mean log1p(CP10k) of each gene, (n_genes,), summed up without the matrix of the logs."""
    totals = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    factors = np.divide(TARGET_SUM, totals, out=np.zeros_like(totals), where=totals > 0)
    values = np.repeat(factors, np.diff(counts.indptr))
    values *= counts.data
    np.log1p(values, out=values)
    return np.bincount(counts.indices, weights=values, minlength=counts.shape[1]) / counts.shape[0]


def _mean(log: sp.csr_matrix) -> Array:
    return np.asarray(log.mean(axis=0, dtype=np.float64)).ravel()
