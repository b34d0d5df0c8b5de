import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from gca_core.annotation import annotate_anndata
from gca_core.annotation.labels.rerank import squared_distances
from gca_core.annotation.models import UNKNOWN, Confidence, Status
from gca_core.matrix.ranking import rank_against, rank_genes
from gca_core.matrix.stats import group_sums
from tests.helpers.blood import simulate

B_CELL, NK_CELL, MEGAKARYOCYTE = "CL:0000236", "CL:0000623", "CL:0000556"


@pytest.fixture
def finely_cut(database):
    """Six clusters of B cells, one of which tells itself apart by genes that mark nothing, and two other types."""
    adata = simulate(database, {"b": B_CELL, "nk": NK_CELL, "mega": MEGAKARYOCYTE}, n_per_type=120)
    adata = adata[[*np.flatnonzero(adata.obs["truth"] == "b"), *range(120, 140), *range(240, 260)]].copy()
    adata.obs["k"] = adata.obs["truth"].astype(str)
    part = np.arange(120) // 20
    adata.obs.iloc[:120, adata.obs.columns.get_loc("k")] = [f"b{i}" for i in part]
    own = [adata.var_names.get_loc(f"HK{i}") for i in range(60)]
    rows = np.flatnonzero(adata.obs["k"] == "b0")
    adata.X[np.ix_(rows, own)] += np.random.default_rng(0).poisson(6.0, size=(len(rows), len(own)))
    adata.obs["k"] = adata.obs["k"].astype("category")
    return adata


def test_a_part_of_a_type_without_markers_of_its_own_is_called_what_its_neighbours_are(finely_cut):
    found = {a.cluster: a for a in annotate_anndata(finely_cut, "k").annotations}
    assert found["b0"].ontology_id == B_CELL
    assert found["b0"].confidence is Confidence.MEDIUM
    assert any("most like it" in caveat for caveat in found["b0"].caveats)
    assert "most like it" not in " ".join(found["nk"].caveats)


def test_the_ranking_without_neighbours_is_what_finds_it(finely_cut, monkeypatch):
    monkeypatch.setattr("gca_core.annotation.labels.rerank.NEIGHBOR_DISTANCE", 0.0)
    found = {a.cluster: a for a in annotate_anndata(finely_cut, "k").annotations}
    assert found["b0"].primary_label == UNKNOWN


def test_a_mixture_of_all_types_stays_unknown(database):
    types = {"b": B_CELL, "nk": NK_CELL, "mega": MEGAKARYOCYTE, "hep": "CL:0000182"}
    adata = simulate(database, types)
    names = adata.obs["truth"].astype(str)
    for kind in types:
        names.iloc[np.flatnonzero(names == kind)[:8]] = "mixture"
    adata.obs["k"] = names
    found = {a.cluster: a for a in annotate_anndata(adata, "k").annotations}
    assert found["mixture"].primary_label == UNKNOWN
    assert found["mixture"].status is Status.FLAGGED


def test_two_clusters_of_unknown_cells_stay_unknown(blood):
    blood.X = np.random.default_rng(1).poisson(0.3, size=blood.shape).astype(np.float32)
    blood.obs["k"] = np.arange(blood.n_obs) % 4
    assert {a.primary_label for a in annotate_anndata(blood, "k").annotations} == {UNKNOWN}


@pytest.mark.slow
def test_many_clusters_that_no_marker_speaks_for_are_tried_a_few_times_each(database, monkeypatch):
    adata = simulate(database, {"b": B_CELL}, n_per_type=100)
    adata.X[10:] = np.random.default_rng(2).poisson(0.3, size=(90, adata.n_vars))
    adata.obs["k"] = np.arange(100) // 5
    adata.obs.loc[adata.obs["k"] < 2, "k"] = 0
    tried = []

    def counted(sums, genes, group, others, **options):
        tried.append(group)
        return rank_against(sums, genes, group, others, **options)

    monkeypatch.setattr("gca_core.annotation.labels.rerank.rank_against", counted)
    found = annotate_anndata(adata, "k").annotations
    unknown = sum(a.primary_label == UNKNOWN for a in found)
    assert unknown > 15
    assert 0 < len(tried) <= 9 * unknown


def test_a_ranking_against_some_groups_is_that_of_the_cells_in_them():
    rng = np.random.default_rng(3)
    values = np.log1p(rng.poisson(1.0, size=(90, 40))).astype(float)
    codes = np.arange(90) % 5
    genes = [f"g{j}" for j in range(40)]
    found = rank_against(group_sums([sp.csr_matrix(values)], codes, 5), genes, 1, [0, 4], n_top=40)
    inside = np.isin(codes, [0, 1, 4])
    groups = pd.Series(np.where(codes[inside] == 1, "a", "rest"), dtype="category")
    expected = rank_genes(values[inside], genes, groups, n_top=40, method="t-test_overestim_var")
    expected = expected[expected["group"] == "a"]
    assert found["gene"].tolist() == expected["gene"].tolist()
    for column in ("score", "log_fold_change", "fraction_in", "fraction_out"):
        assert np.allclose(found[column], expected[column])


def test_groups_of_one_kind_are_close_whatever_their_size():
    rng = np.random.default_rng(4)
    means = np.vstack([np.full(200, 1.0), np.linspace(0.2, 3.0, 200)])
    kind = np.repeat([0, 0, 1], [40, 400, 100])
    values = rng.poisson(means[kind]).astype(float)
    distance = squared_distances(group_sums([sp.csr_matrix(values)], np.repeat([0, 1, 2], [40, 400, 100]), 3))
    truth = ((means[0] - means[1]) ** 2).sum()
    assert distance[0, 1] < 0.05 * truth
    assert distance[0, 2] == pytest.approx(truth, rel=0.2)
    assert np.array_equal(distance, distance.T)
