"""Which cells a report draws, and where: on the UMAP that the data brings, or on one of all cells or some."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from gca_core.annotation.adata.embedding import cell_graph
from gca_core.annotation.adata.expression import Expression
from gca_core.annotation.adata.files import UMAP
from gca_core.annotation.scoring.marker_model import Array
from gca_core.matrix.neighbours import NeighbourGraph

if TYPE_CHECKING:
    from anndata import AnnData

log = logging.getLogger(__name__)

# of more cells, so many are drawn where the data brings no UMAP
MAX_DRAWN = 20_000
MIN_PER_CLUSTER = 30


@dataclass(frozen=True)
class DrawnCells:
    """The cells to draw.

    Attributes:
        coordinates: (n, 2).
        positions: of the cells, ascending; None means all.
        computed_for_all: whether the coordinates are new and of all cells.
        note: for the title, where only some are drawn.
    """

    coordinates: Array
    positions: npt.NDArray[np.int64] | None = None
    computed_for_all: bool = False
    note: str = ""

    def of(self, adata: AnnData) -> AnnData:
        """The data of these cells."""
        return adata if self.positions is None else adata[self.positions]


def drawn_cells(
    adata: AnnData,
    groups: pd.Series,
    expression: Expression | None,
    seed: int,
    *,
    graph: NeighbourGraph | None = None,
    umap: bool = True,
) -> DrawnCells | None:
    """The cells of ``adata`` to draw; None where it brings no UMAP and none is wanted, or there is no expression.

    Of more than 20,000 cells without a UMAP that many are drawn, some of every cluster.
    """
    if UMAP in adata.obsm:
        known = np.asarray(adata.obsm[UMAP], dtype=np.float64)
        if known.ndim == 2 and known.shape[1] >= 2 and np.isfinite(known[:, :2]).all():
            return DrawnCells(known[:, :2])
        log.warning("obsm[%r] holds no finite pair of coordinates for every cell; a UMAP is computed", UMAP)
    if not umap:
        return None
    if expression is None:
        log.warning("there is no UMAP in obsm and no usable matrix to compute one from; no cells are drawn")
        return None
    if expression.n_cells < 4:
        return None
    if expression.n_cells <= MAX_DRAWN:
        log.info("computing a UMAP")
        coordinates = (graph or cell_graph(expression, seed)).umap(seed)
        return DrawnCells(coordinates, computed_for_all=True)
    positions = chosen_cells(groups, seed)
    log.info("computing a UMAP of %d of %d cells", len(positions), len(groups))
    coordinates = cell_graph(expression.of_cells(positions), seed).umap(seed)
    note = f": {len(positions):,} of {len(groups):,} cells drawn"
    return DrawnCells(coordinates, positions, note=note)


def chosen_cells(groups: pd.Series, seed: int) -> npt.NDArray[np.int64]:
    """Ascending positions of 20,000 cells drawn at random, with some of every cluster."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(groups))
    codes = groups.cat.codes.to_numpy()[order]
    # the how many-eth cell of its cluster each one is, in the random order
    rank = pd.Series(codes).groupby(codes).cumcount().to_numpy()
    first = order[(rank < MIN_PER_CLUSTER) & (codes >= 0)]
    rest = order[~((rank < MIN_PER_CLUSTER) & (codes >= 0))]
    return np.sort(np.concatenate([first, rest[: max(0, MAX_DRAWN - len(first))]])).astype(np.int64)
