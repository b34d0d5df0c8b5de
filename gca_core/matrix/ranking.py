"""Genes that set each group of cells apart from all others."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from gca_core.errors import DataValidationError
from gca_core.matrix import RankingMethod as RankingMethod
from gca_core.matrix.chunks import ChunkedMatrix, as_chunked
from gca_core.matrix.stats import GroupSums, group_sums
from gca_core.matrix.wilcoxon import wilcoxon_scores

Floats = npt.NDArray[np.float64]
# a gene that varies neither inside nor outside a group has no finite t
MAX_SCORE = 1e6


def rank_genes(
    X: Any,
    genes: Sequence[str],
    groups: pd.Series,
    *,
    n_top: int = 50,
    method: RankingMethod = "wilcoxon",
    sums: GroupSums | None = None,
) -> pd.DataFrame:
    """Rank genes of each group against all other cells, by the tests of :func:`scanpy.tl.rank_genes_groups`.

    Scores are scanpy's: Welch's t (the variance of the others taken as if they were as few as the group, for
    ``t-test_overestim_var``), the z of the rank sums without correction for ties, or the coefficients of a logistic
    regression, for which scanpy itself is called. Genes of equal score keep their order.
    Groups of a single cell can't be tested: their genes are ranked by the difference of means.

    Args:
        X: cells x genes, log-normalised; in memory, in a file, or a :class:`ChunkedMatrix`. The t-tests read a file
            in one pass, Wilcoxon in one per 40 million values; logreg needs the matrix in memory.
        genes: the names of the columns.
        groups: the group of each cell; missing values leave a cell out of its own test only.
        n_top: genes kept per group.
        method: the test.
        sums: of the groups over ``X``, where they are known already.

    Returns:
        One row per group and gene, groups in category order: group, gene, rank (from 0), score,
        log_fold_change (difference of means, natural log), fraction_in, fraction_out.

    Raises:
        DataValidationError: sizes don't fit, no cell has a group, or Wilcoxon finds negative values.
    """
    matrix = as_chunked(X)
    labels = groups.astype("category").cat.remove_unused_categories()
    if matrix.shape != (len(labels), len(genes)):
        raise DataValidationError(
            f"the matrix is {matrix.shape}, but there are {len(labels)} groups and {len(genes)} genes"
        )
    names = list(labels.cat.categories)
    if not names:
        raise DataValidationError("no cell has a group; give every cluster a name")
    codes = labels.cat.codes.to_numpy()
    found = sums or group_sums(matrix.chunks(), codes, len(names))
    scores = _scores(matrix, codes, found, method)
    return pd.concat(
        [_table(i, name, genes, found, scores, n_top) for i, name in enumerate(names)],
        ignore_index=True,
    )


def _scores(matrix: ChunkedMatrix, codes: npt.NDArray[Any], sums: GroupSums, method: RankingMethod) -> Floats:
    """(g, n) scores of the test; differences of means for groups that can't be tested."""
    if method == "wilcoxon":
        return _where_testable(sums, lambda _: wilcoxon_scores(matrix, codes, len(sums.n_cells) - 1))
    if method == "logreg":
        shape = (len(sums.n_cells) - 1, sums.total.shape[1])
        return _where_testable(sums, lambda testable: _regression_scores(matrix, codes, testable, shape))
    return _t_scores(sums, method)


def _t_scores(sums: GroupSums, method: RankingMethod) -> Floats:
    inside, outside = sums.inside(), sums.outside()
    others = inside.n_cells if method == "t-test_overestim_var" else outside.n_cells
    with np.errstate(divide="ignore", invalid="ignore"):
        error = inside.variance / inside.n_cells[:, None] + outside.variance / others[:, None]
        tested = np.nan_to_num((inside.mean - outside.mean) / np.sqrt(error), nan=0.0)
    return _where_testable(sums, lambda _: tested)


def _where_testable(sums: GroupSums, test: Callable[[npt.NDArray[Any]], Floats]) -> Floats:
    """Scores of a test of the groups that it is given; differences of means for those that can't be tested."""
    inside, outside = sums.inside(), sums.outside()
    scores = inside.mean - outside.mean
    testable = np.flatnonzero((inside.n_cells > 1) & (outside.n_cells > 0))
    if testable.size:
        scores[testable] = np.clip(test(testable)[testable], -MAX_SCORE, MAX_SCORE)
    return scores


def _table(i: int, name: Any, genes: Sequence[str], sums: GroupSums, scores: Floats, n_top: int) -> pd.DataFrame:
    inside, outside = sums.inside(), sums.outside()
    order = np.argsort(-scores[i], kind="stable")[:n_top]
    return pd.DataFrame(
        {
            "group": [name] * len(order),
            "gene": [genes[j] for j in order],
            "rank": np.arange(len(order)),
            "score": scores[i][order],
            "log_fold_change": (inside.mean[i] - outside.mean[i])[order],
            "fraction_in": inside.fraction[i][order],
            "fraction_out": outside.fraction[i][order],
        }
    )


def _regression_scores(
    matrix: ChunkedMatrix, codes: npt.NDArray[Any], testable: npt.NDArray[Any], shape: tuple[int, int]
) -> Floats:
    """Coefficients of the testable groups, by scanpy."""
    import anndata
    import scanpy as sc

    # opaque names: scanpy turns group names into field names and compares them with "rest"
    obs = pd.DataFrame(
        {"group": pd.Categorical([f"g{code}" for code in codes])}, index=[str(i) for i in range(len(codes))]
    )
    var = pd.DataFrame(index=[str(j) for j in range(shape[1])])
    data = anndata.AnnData(X=matrix.to_csr(), obs=obs, var=var)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sc.tl.rank_genes_groups(data, "group", groups=[f"g{i}" for i in testable], method="logreg", n_genes=shape[1])
    found = data.uns["rank_genes_groups"]
    scores = np.zeros(shape)
    for i in testable:
        scores[i, found["names"][f"g{i}"].astype(int)] = found["scores"][f"g{i}"]
    return scores
