import numpy as np
import pytest

from gca_core.annotation import annotate_anndata
from gca_core.annotation.models import UNKNOWN, Status
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
    found = {a.cluster: a.ontology_id for a in annotate_anndata(finely_cut, "k").annotations}
    assert {found[f"b{i}"] for i in range(6)} == {B_CELL}


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
