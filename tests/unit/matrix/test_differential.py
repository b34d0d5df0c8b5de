import numpy as np
import pytest
import scanpy as sc
import scipy.sparse as sp
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from gca_core.datasets import kang2018_mini
from gca_core.errors import DataValidationError
from gca_core.matrix.differential import NOT_REPLICATES, _moderated, differential_expression
from gca_core.matrix.normalise import log_normalise


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        np.float32, st.tuples(st.integers(2, 20), st.integers(1, 5)), elements=st.sampled_from([0, 0, 0, 1, 2.5])
    ),
    st.data(),
)
def test_p_values_are_those_of_the_definitions(X, data):
    n = data.draw(st.integers(1, len(X) - 1))
    genes = [f"g{i}" for i in range(X.shape[1])]
    found = differential_expression(sp.csr_matrix(X[:n]), X[n:], genes)
    for i in range(X.shape[1]):
        a, b = X[:n, i].astype(float), X[n:, i].astype(float)
        assert found.lfc[i] == pytest.approx((a.mean() - b.mean()) / np.log(2))
        varies = len(np.unique(X[:, i])) > 1
        rank = stats.mannwhitneyu(a, b, use_continuity=False, method="asymptotic").pvalue if varies else 1.0
        assert found.wilcoxon_p[i] == pytest.approx(rank, abs=1e-9)
        if n > 1 and len(X) - n > 1 and a.var() + b.var() > 0:
            assert found.t_p[i] == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue)
    assert np.allclose(found.wilcoxon_padj, stats.false_discovery_control(found.wilcoxon_p))


@pytest.mark.slow
def test_the_tables_are_scanpys_and_generated_cells_are_no_replicates():
    cells = kang2018_mini()
    stim = (cells.obs["condition"] == "stim").to_numpy()
    log = log_normalise(cells.X)
    genes = cells.var_names.tolist()
    ours = differential_expression(log[stim], log[~stim], genes, generated=True)
    peer = AnnData(log, obs=cells.obs[["condition"]].copy(), var=cells.var[[]])
    sc.tl.rank_genes_groups(peer, "condition", groups=["stim"], reference="ctrl", method="wilcoxon", tie_correct=True)
    theirs = sc.get.rank_genes_groups_df(peer, "stim").set_index("names").loc[genes]
    assert np.allclose(ours.wilcoxon_p, theirs["pvals"], rtol=1e-4)
    assert np.allclose(ours.wilcoxon_padj, theirs["pvals_adj"], rtol=1e-4)
    assert (ours.is_de == ((abs(ours.lfc) >= 0.5) & (ours.wilcoxon_padj <= 0.05))).all()
    assert {"ISG15", "IFI6", "ISG20"} <= set(ours.strongest("up")[:10])
    assert not set(ours.strongest("up")) & set(ours.strongest("down"))
    assert ours.to_frame().index[0] in {ours.strongest("up")[0], ours.strongest("down")[0]}
    assert ours.note == NOT_REPLICATES


def donors_and_cells(n_donors=3, shift=1.0):
    rng = np.random.default_rng(0)
    donors = np.repeat([f"d{i}" for i in range(n_donors)], 40)
    base = rng.gamma(4.0, 0.5, (1, 200)) + 0.2 * rng.normal(size=(n_donors, 200)).repeat(40, axis=0)
    draw = lambda: np.maximum(base + 0.3 * rng.normal(size=base.shape), 0)  # noqa: E731
    treated, control = draw(), draw()
    treated[:, :20] += shift
    return treated, control, donors, [f"g{i}" for i in range(200)]


def test_donors_are_the_replicates_where_there_are_three():
    treated, control, donors, genes = donors_and_cells()
    found = differential_expression(treated, control, genes, donors=(donors, donors))
    assert (found.decided_by, found.n_donors) == ("donors", 3)
    assert found.is_de[:20].all()
    assert not found.is_de[20:].any()
    assert (found.padj == found.t_padj).all()
    assert (differential_expression(control, control, genes, donors=(donors, donors)).t_p == 1).all()
    few = differential_expression(treated[:80], control[:80], genes, donors=(donors[:80], donors[:80]))
    unknown = differential_expression(treated, control, genes, donors=([None] * 120, donors))
    assert few.decided_by == unknown.decided_by == "wilcoxon"


def test_the_moderated_t_holds_its_level():
    rng = np.random.default_rng(1)
    same = rng.normal(size=(4, 5000))
    p = _moderated(same)
    assert stats.kstest(p, "uniform").pvalue > 0.01
    varied = same * np.sqrt(1 / rng.chisquare(4, 5000) * 4)
    p = _moderated(varied)
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert (p < 1e-3).mean() > 0.0003


@pytest.mark.parametrize(
    ("treated", "control", "genes", "message"),
    [
        ([[1.0, 2.0]], [[1.0, 2.0]], ["A"], "1 genes"),
        (np.zeros((0, 1)), [[1.0]], ["A"], "needs cells on both sides"),
        ([[np.nan]], [[1.0]], ["A"], "NaN"),
        ([[-1.0]], [[1.0]], ["A"], "negative"),
    ],
)
def test_cells_that_can_not_be_compared_are_refused(treated, control, genes, message):
    with pytest.raises(DataValidationError, match=message):
        differential_expression(np.array(treated), np.array(control), genes)


def test_donors_have_to_be_one_for_each_cell():
    treated, control, donors, genes = donors_and_cells()
    with pytest.raises(DataValidationError, match="239 donors for 240 cells"):
        differential_expression(treated, control, genes, donors=(donors, donors[:-1]))
