import numpy as np
import pandas as pd
import pytest

from gca_core.errors import DataValidationError
from gca_core.matrix.normalise import log_normalise
from gca_core.matrix.ranking import rank_genes

GENES = [f"G{i}" for i in range(12)]


@pytest.fixture
def matrix():
    rng = np.random.default_rng(0)
    means = np.full((3, 12), 2.0)
    for group in range(3):
        means[group, 4 * group : 4 * group + 2] = 20.0
    return log_normalise(np.vstack([rng.poisson(means[g], size=(20, 12)) for g in range(3)]))


@pytest.mark.parametrize("method", ["wilcoxon", "t-test"])
def test_each_group_is_led_by_its_own_genes(matrix, method):
    groups = pd.Series(["b c", "β-cells", "1"]).repeat(20)
    ranked = rank_genes(matrix, GENES, groups, n_top=5, method=method)
    top = ranked[ranked["rank"] < 2].groupby("group", observed=True)["gene"].agg(set)
    assert top["b c"] == {"G0", "G1"}
    assert top["β-cells"] == {"G4", "G5"}
    assert top["1"] == {"G8", "G9"}
    assert (ranked.groupby("group", observed=True).size() == 5).all()
    assert (ranked.loc[ranked["rank"] == 0, "log_fold_change"] > 0.5).all()
    assert ranked["fraction_in"].between(0, 1).all()


def test_unused_categories_single_cells_and_missing_groups_are_no_obstacle(matrix):
    names = ["a"] * 30 + ["lone"] + [None] * 9 + ["b"] * 20
    groups = pd.Series(pd.Categorical(names, categories=["unused", "b", "a", "lone"]))
    ranked = rank_genes(matrix, GENES, groups, n_top=3)
    assert list(ranked["group"].unique()) == ["b", "a", "lone"]
    assert np.isfinite(ranked["score"]).all()


def test_one_single_group_is_ranked_by_its_means(matrix):
    ranked = rank_genes(matrix, GENES, pd.Series([0] * 60), n_top=4)
    assert len(ranked) == 4
    assert ranked["log_fold_change"].is_monotonic_decreasing


def test_sizes_that_do_not_fit_and_no_groups_are_refused(matrix):
    with pytest.raises(DataValidationError, match="12 genes"):
        rank_genes(matrix, GENES, pd.Series(["a", "b"]))
    with pytest.raises(DataValidationError, match="no cell has a group"):
        rank_genes(matrix, GENES, pd.Series([None] * 60, dtype="category"))
