"""Withholding a cell type's perturbed cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gca_core.errors import DataValidationError

if TYPE_CHECKING:
    from anndata import AnnData


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
