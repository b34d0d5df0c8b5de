"""Withholding a cell type's perturbed cells, and comparing a prediction with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel

from gca_core.errors import DataValidationError
from gca_core.inference.prediction import LOG, change
from gca_core.matrix.cells import read_h5ad
from gca_core.matrix.compare import de_overlap, log_fold_change, pearson
from gca_core.matrix.normalise import log_normalise

if TYPE_CHECKING:
    from anndata import AnnData

TOP_GENES = 50


class TruthComparison(BaseModel, frozen=True):
    """How a prediction agrees with the measured response."""

    pearson_lfc: float
    de_overlap_50: float
    n_genes: int
    n_true_cells: int
    n_control_cells: int


def split_withheld(
    adata: AnnData, cell_type_id: str, *, perturbed_value: str, condition: str = "condition",
    id_column: str = "cell_type_ontology_id",
) -> tuple[AnnData, AnnData]:  # fmt: skip
    """The data without the perturbed cells of a type, and those cells.

    Cells that carry no label are left out of the first part: they could be of the withheld type.

    Args:
        adata: cells with a condition and a Cell Ontology id.
        cell_type_id: the type to withhold.
        perturbed_value: value of ``condition`` for perturbed cells.
        condition: obs column of the condition.
        id_column: obs column of Cell Ontology ids; missing where a cell has no label.

    Raises:
        DataValidationError: a column is missing, or no such cells are there.
    """
    for column in (condition, id_column):
        if column not in adata.obs:
            raise DataValidationError(f"obs has no column {column!r}; it has {', '.join(map(str, adata.obs.columns))}")
    labelled = adata.obs[id_column].notna().to_numpy()
    same = (adata.obs[id_column] == cell_type_id).fillna(False).to_numpy(dtype=bool)
    perturbed = (adata.obs[condition] == perturbed_value).to_numpy(dtype=bool)
    withheld = same & perturbed
    if not withheld.any() or not (same & ~perturbed).any():
        raise DataValidationError(
            f"there are {int(withheld.sum())} perturbed and {int((same & ~perturbed).sum())} control cells of "
            f"{cell_type_id}; withholding needs both"
        )
    return adata[labelled & ~withheld].copy(), adata[withheld].copy()


def compare_with_truth(prediction_uri: str, truth: AnnData, control: AnnData) -> TruthComparison:
    """Compare a result file with measured cells.

    The predicted change is that of the predicted cells against the control cells of the same file; the
    true one that of ``truth`` against ``control``, all measured control cells of the type.

    Args:
        prediction_uri: ``_predictions.h5ad`` of a run.
        truth: measured perturbed cells, raw counts.
        control: measured control cells of the same type, raw counts.

    Raises:
        DataValidationError: the file is no result, or shares too few genes.
    """
    result = read_h5ad(prediction_uri, what="result")
    if "haystack" not in result.obs:
        raise DataValidationError(f"{prediction_uri!r} has no obs['haystack']; pass the _predictions.h5ad of a run")
    if LOG not in result.layers:
        result.layers[LOG] = log_normalise(result.X)
    place = truth.var_names.get_indexer(result.var_names)
    shared = place >= 0
    kind = result.obs["haystack"].to_numpy()
    predicted = change(result[kind == "prediction"], result[kind == "control"])[shared]
    true = log_fold_change(truth.X, control[:, truth.var_names].X)[place[shared]]
    return compare_changes(predicted, true, n_true_cells=truth.n_obs, n_control_cells=control.n_obs)


def compare_changes(
    predicted: np.ndarray, true: np.ndarray, *, n_true_cells: int = 0, n_control_cells: int = 0
) -> TruthComparison:
    """Pearson over all genes, and the overlap of the 50 largest changes."""
    return TruthComparison(
        pearson_lfc=pearson(predicted, true),
        de_overlap_50=de_overlap(predicted, true, TOP_GENES),
        n_genes=len(true),
        n_true_cells=n_true_cells,
        n_control_cells=n_control_cells,
    )
