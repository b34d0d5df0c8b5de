"""Genes that set each group of cells apart, ranked through scanpy."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import anndata
import numpy as np
import pandas as pd
import scanpy as sc

from gca_core.errors import DataValidationError
from gca_core.matrix.kinds import to_csr
from gca_core.matrix.stats import group_mean_variance

log = logging.getLogger(__name__)

RankingMethod = Literal["t-test", "t-test_overestim_var", "wilcoxon", "logreg"]


def rank_genes(
    X: Any, genes: Sequence[str], groups: pd.Series, *, n_top: int = 50, method: RankingMethod = "wilcoxon"
) -> pd.DataFrame:
    """Rank genes of each group against all other cells, by :func:`scanpy.tl.rank_genes_groups`.

    Groups of a single cell can't be tested: their genes are ranked by the difference of means.

    Args:
        X: cells x genes, log-normalised.
        genes: the names of the columns.
        groups: the group of each cell; missing values leave a cell out of its own test only.
        n_top: genes kept per group.
        method: the test, as scanpy names it.

    Returns:
        One row per group and gene, groups in category order: group, gene, rank (from 0), score,
        log_fold_change (difference of means, natural log), fraction_in, fraction_out.

    Raises:
        DataValidationError: sizes don't fit, or no cell has a group.
    """
    matrix = to_csr(X)
    labels = groups.astype("category").cat.remove_unused_categories()
    if matrix.shape != (len(labels), len(genes)):
        raise DataValidationError(
            f"the matrix is {matrix.shape}, but there are {len(labels)} groups and {len(genes)} genes"
        )
    names = list(labels.cat.categories)
    if not names:
        raise DataValidationError("no cell has a group; give every cluster a name")
    codes = labels.cat.codes.to_numpy()
    inside = group_mean_variance(matrix, codes, len(names))
    outside = [group_mean_variance(matrix, np.where(codes == i, -1, 0), 1) for i in range(len(names))]
    tested = _test(matrix, codes, [i for i in range(len(names)) if inside.n_cells[i] > 1], n_top, method)
    frames = []
    for i, name in enumerate(names):
        difference = inside.mean[i] - outside[i].mean[0]
        order, scores = tested.get(i, (np.argsort(-difference, kind="stable")[:n_top], None))
        frames.append(
            pd.DataFrame(
                {
                    "group": [name] * len(order),
                    "gene": [genes[j] for j in order],
                    "rank": np.arange(len(order)),
                    "score": difference[order] if scores is None else scores,
                    "log_fold_change": difference[order],
                    "fraction_in": inside.fraction[i][order],
                    "fraction_out": outside[i].fraction[0][order],
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def _test(
    matrix: Any, codes: Any, testable: list[int], n_top: int, method: RankingMethod
) -> dict[int, tuple[Any, Any]]:
    """Gene positions and scores of each testable group; empty when there is nothing to compare with."""
    if not testable or len(np.unique(codes)) < 2:
        return {}
    # opaque names: scanpy turns group names into field names and compares them with "rest"
    obs = pd.DataFrame(
        {"group": pd.Categorical([f"g{code}" for code in codes])}, index=[str(i) for i in range(len(codes))]
    )
    var = pd.DataFrame(index=[str(j) for j in range(matrix.shape[1])])
    data = anndata.AnnData(X=matrix, obs=obs, var=var)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sc.tl.rank_genes_groups(
            data,
            "group",
            groups=[f"g{i}" for i in testable],
            method=method,
            n_genes=min(n_top, matrix.shape[1]),
            tie_correct=False,
        )
    found = data.uns["rank_genes_groups"]
    return {
        i: (found["names"][f"g{i}"].astype(int), np.asarray(found["scores"][f"g{i}"], dtype=np.float64))
        for i in testable
    }
