"""The file of a prediction, the same for every backend: exactly the query's cells and genes, in their order.

``X`` holds counts, the draw of the first seed; ``layers["log1p"]`` the natural log1p of counts per 10,000, averaged
over all seeds. Averaging counts instead would shrink their noise, and with it the mean of their logarithms, which is
what changes are measured on. A backend that generates its own control keeps it beside them, as ``layers["control"]``
and ``layers["control_log1p"]``; without these the control is the query itself.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import anndata as ad
import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from gca_core import io
from gca_core.errors import EvaluationError, InferenceError
from gca_core.inference.models import InferenceRequest
from gca_core.matrix.cells import read_h5ad, write_cells
from gca_core.matrix.differential import DifferentialExpression, differential_expression
from gca_core.matrix.normalise import log_normalise

LOG = "log1p"
CONTROL = "control"
CONTROL_LOG = "control_log1p"
GENES = "predicted"
DONOR = "donor"


@dataclass(frozen=True)
class Drawn:
    """Cells drawn once per seed, cells x genes.

    Attributes:
        counts: of the first seed.
        log: log1p(CP10k), mean over the seeds.
    """

    counts: sp.csr_matrix
    log: sp.csr_matrix


def average(draws: Iterable[sp.csr_matrix]) -> Drawn:
    """The draws of all seeds in one; each is let go before the next is made.

    Raises:
        InferenceError: there are none.
    """
    first, total, n = None, None, 0
    for counts in draws:
        log = log_normalise(counts)
        first, total, n = counts if first is None else first, log if total is None else total + log, n + 1
    if first is None or total is None:
        raise InferenceError("a prediction needs at least one seed")
    if n > 1:
        total.data /= n
    return Drawn(first, sp.csr_matrix(total))


def write_prediction(
    query: ad.AnnData,
    predicted: Drawn,
    request: InferenceRequest,
    *,
    genes: npt.NDArray[np.bool_],
    record: dict[str, Any],
    control: Drawn | None = None,
) -> None:
    """Write ``request.output_uri``.

    Args:
        query: the request's cells.
        predicted: for exactly these cells and genes.
        request: what was asked.
        genes: (n_genes,), those that were predicted; others keep the query's counts.
        record: what ran, for ``uns["gca"]``.
        control: the synthetic control of the same cells; None where the control is the query.
    """
    result = ad.AnnData(predicted.counts.astype(np.float32), obs=query.obs.copy(), var=query.var[[]].copy())
    result.layers[LOG] = predicted.log
    if control is not None:
        result.layers[CONTROL] = control.counts.astype(np.float32)
        result.layers[CONTROL_LOG] = control.log
    result.var[GENES] = genes
    result.uns["gca"] = {
        "kind": "prediction",
        "candidate_id": request.candidate_id,
        "backend": request.backend,
        "seeds": list(request.seeds),
        "control": "query" if control is None else "synthetic",
        "note": "generated cells are not replicates: rank genes by effect size",
        **record,
    }
    with io.staged(request.output_uri) as path:
        # lzf would halve the file, and take half of the time of a shift
        write_cells(result, path, compression=None)


def read_prediction(prediction_uri: str, query_uri: str) -> tuple[ad.AnnData, ad.AnnData]:
    """Predicted cells and those that they are compared with, both with counts in X and ``layers["log1p"]``.

    Raises:
        DataValidationError: a file is missing or damaged.
        EvaluationError: the files hold different genes.
    """
    predicted = read_h5ad(prediction_uri, what="prediction")
    if LOG not in predicted.layers:
        predicted.layers[LOG] = log_normalise(predicted.X)
    if CONTROL in predicted.layers:
        counts, log = predicted.layers.pop(CONTROL), predicted.layers.pop(CONTROL_LOG)
        return predicted, ad.AnnData(counts, obs=predicted.obs.copy(), var=predicted.var.copy(), layers={LOG: log})
    control = read_h5ad(query_uri, what="control file")
    if not predicted.var_names.equals(control.var_names):
        raise EvaluationError("the prediction and its control hold different genes; run the inference again")
    control.layers[LOG] = log_normalise(control.X)
    return predicted, control


def change(predicted: ad.AnnData, control: ad.AnnData) -> npt.NDArray[np.float64]:
    """Difference of mean log1p(CP10k), predicted minus control, (n_genes,)."""
    treated, untreated = (
        np.asarray(cells.layers[LOG].mean(axis=0, dtype=np.float64)) for cells in (predicted, control)
    )
    return np.asarray(treated - untreated).ravel()


def differential_change(
    predicted: ad.AnnData, control: ad.AnnData, *, min_lfc: float, max_padj: float
) -> DifferentialExpression:
    """Differential expression of predicted against control cells, by donor where both sides name theirs."""
    named = all(DONOR in cells.obs for cells in (predicted, control))
    return differential_expression(
        predicted.layers[LOG],
        control.layers[LOG],
        predicted.var_names.astype(str).tolist(),
        donors=(predicted.obs[DONOR].tolist(), control.obs[DONOR].tolist()) if named else None,
        min_lfc=min_lfc,
        max_padj=max_padj,
        generated=True,
    )
