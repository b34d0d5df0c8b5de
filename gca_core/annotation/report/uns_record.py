"""What an annotated file says about its annotation, in ``uns["gca_annotation"]``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from gca_core.annotation.adata.files import UMAP
from gca_core.annotation.models import STORED, DatasetReport
from gca_core.annotation.report.dot_plot import MarkerExpression
from gca_core.annotation.report.drawn_cells import DrawnCells

if TYPE_CHECKING:
    from anndata import AnnData


def keep_record(
    adata: AnnData,
    report: DatasetReport,
    *,
    source: str,
    markers: MarkerExpression | None,
    drawn: DrawnCells | None = None,
) -> None:
    """Keep the report without its labels, the source's name, and what the pictures are drawn from, for a review.

    Corrections that are kept there stay.
    """
    known = adata.uns.get(STORED)
    kept = {"corrections": known["corrections"]} if isinstance(known, Mapping) and "corrections" in known else {}
    record: dict[str, Any] = {"report": report.model_dump_json(exclude={"annotations"}), "source": source}
    if markers is not None:
        record["markers"] = markers.to_uns()
    if drawn is not None and drawn.positions is not None:
        record["drawn"] = {"positions": drawn.positions, "coordinates": drawn.coordinates, "note": drawn.note}
    adata.uns[STORED] = kept | record


def kept_source(adata: AnnData) -> str:
    """The name of the file that was annotated."""
    return str(_record(adata).get("source", "the cells"))


def kept_markers(adata: AnnData) -> MarkerExpression | None:
    """What the dot plot was drawn from."""
    stored = _record(adata).get("markers")
    return None if stored is None else MarkerExpression.from_uns(stored)


def kept_drawn(adata: AnnData) -> DrawnCells | None:
    """The cells that were drawn, and where: all of them on their UMAP, or those that were chosen."""
    stored = _record(adata).get("drawn")
    if stored is not None:
        positions = np.asarray(stored["positions"], dtype=np.int64)
        return DrawnCells(np.asarray(stored["coordinates"], dtype=np.float64), positions, note=str(stored["note"]))
    if UMAP not in adata.obsm:
        return None
    return DrawnCells(np.asarray(adata.obsm[UMAP], dtype=np.float64)[:, :2])


def _record(adata: AnnData) -> Mapping[str, Any]:
    found = adata.uns.get(STORED)
    return found if isinstance(found, Mapping) else {}
