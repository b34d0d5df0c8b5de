import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc

from gca_core.annotation.clusters import annotate_rank_genes
from gca_core.annotation.models import UNKNOWN, FlagReason
from gca_core.annotation.scoring.parameters import TOP_N_MARKERS
from gca_core.errors import DataValidationError
from gca_core.matrix.normalise import log_normalise
from tests.helpers.blood import MIXTURE


@pytest.fixture(scope="module")
def logged(simulated) -> ad.AnnData:
    adata = simulated.copy()
    adata.X = log_normalise(adata.X)
    sc.tl.rank_genes_groups(adata, "truth", method="t-test", n_genes=60)
    return adata


@pytest.fixture
def ranked(logged) -> ad.AnnData:
    return logged.copy()


def terms(report) -> dict[str, str | None]:
    return {a.cluster: a.ontology_id for a in report.annotations}


def test_a_ranking_that_is_there_is_used(ranked):
    report = annotate_rank_genes(ranked, tissue="blood")
    assert terms(report) == MIXTURE
    assert report.cluster_key == "truth"
    assert not report.clusters_computed
    assert report.ranking == "t-test, taken from uns['rank_genes_groups']"
    assert "log-normalised" in report.matrix
    assert "gptca_cluster" not in ranked.obs
    assert (ranked.obs["gptca_label"][ranked.obs["truth"] == "b"] == "B cell").all()


def test_top_genes_are_in_the_order_of_the_ranking(ranked):
    report = annotate_rank_genes(ranked, top_n_markers=7)
    for annotation in report.annotations:
        names = ranked.uns["rank_genes_groups"]["names"][annotation.cluster]
        assert 7 <= len(annotation.markers) < 20
        assert annotation.markers == tuple(names[: len(annotation.markers)])


def test_the_ranking_alone_decides_where_no_matrix_is_usable(ranked):
    ranked.X = np.asarray(ranked.X.toarray() - ranked.X.toarray().mean(axis=0))
    report = annotate_rank_genes(ranked, tissue="blood")
    assert report.matrix.startswith("no usable matrix")
    assert sum(terms(report)[name] == MIXTURE[name] for name in MIXTURE) >= 4
    with pytest.raises(DataValidationError, match="no layer"):
        annotate_rank_genes(ranked, layer="nope")


def test_a_filtered_ranking_leaves_out_what_the_filter_did(ranked):
    sc.tl.filter_rank_genes_groups(ranked, min_fold_change=2, min_in_group_fraction=0.3)
    filtered = ranked.uns["rank_genes_groups_filtered"]["names"]
    report = annotate_rank_genes(ranked, key="rank_genes_groups_filtered", tissue="blood")
    for annotation in report.annotations:
        kept = [name for name in filtered[annotation.cluster] if isinstance(name, str)]
        assert len(kept) < 60
        assert annotation.markers == tuple(kept[:TOP_N_MARKERS])


def test_a_ranking_survives_files(ranked, tmp_path):
    expected = annotate_rank_genes(ranked.copy()).annotations
    ranked.write_h5ad(tmp_path / "a.h5ad")
    assert annotate_rank_genes(ad.read_h5ad(tmp_path / "a.h5ad")).annotations == expected
    assert annotate_rank_genes(ad.read_h5ad(tmp_path / "a.h5ad", backed="r")).annotations == expected


def test_genes_that_are_lower_than_elsewhere_do_not_count(logged):
    adata = logged.copy()
    sc.tl.rank_genes_groups(adata, "truth", method="t-test", n_genes=60, rankby_abs=True)
    names, changes = (adata.uns["rank_genes_groups"][what]["b"] for what in ("names", "logfoldchanges"))
    lower = set(names[changes < 0])
    assert lower
    report = annotate_rank_genes(adata, top_n_markers=60)
    assert not lower & set(report.annotations[0].markers)


def test_a_ranking_without_fold_changes_is_used_by_its_scores(logged):
    adata = logged.copy()
    sc.tl.rank_genes_groups(adata, "truth", method="logreg", n_genes=40)
    assert "logfoldchanges" not in adata.uns["rank_genes_groups"]
    assert terms(annotate_rank_genes(adata, tissue="blood"))["mega"] == MIXTURE["mega"]


def test_clusters_that_were_not_ranked_are_unknown(logged):
    adata = logged.copy()
    sc.tl.rank_genes_groups(adata, "truth", groups=["b", "nk"], reference="mega", method="t-test")
    report = annotate_rank_genes(adata)
    assert report.ranking.endswith("against mega")
    unranked = {a.cluster: a for a in report.annotations if a.cluster not in {"b", "nk"}}
    assert set(unranked) == {"cd14", "cd16", "mega"}
    for annotation in unranked.values():
        assert annotation.primary_label == UNKNOWN
        assert FlagReason.NO_MARKERS_SUPPLIED in annotation.flag_reasons


def test_ensembl_ids_in_a_ranking_are_mapped(logged, simulated):
    adata = simulated.copy()
    adata.var["feature_name"] = adata.var_names.to_numpy()
    adata.var_names = [f"ENSG{i:011d}.{i % 9 + 1}" for i in range(adata.n_vars)]
    adata.X = log_normalise(adata.X)
    sc.tl.rank_genes_groups(adata, "truth", method="t-test", n_genes=60)
    assert annotate_rank_genes(adata).annotations == annotate_rank_genes(logged.copy()).annotations


def test_a_ranking_of_raw_is_mapped_by_the_genes_of_raw(logged):
    adata = logged.copy()
    adata.raw = adata.copy()
    adata = adata[:, :400].copy()
    assert terms(annotate_rank_genes(adata, tissue="blood")) == MIXTURE


@pytest.mark.parametrize("names", [{"b": 0, "nk": 1, "cd14": 2, "cd16": 3, "mega": 4}, {"b": "ä b/c", "nk": "=1"}])
def test_cluster_names_of_a_ranking_may_be_anything(simulated, names):
    adata = simulated.copy()
    adata.X = log_normalise(adata.X)
    adata.obs["k"] = pd.Categorical([names.get(t, t) for t in adata.obs["truth"]])
    sc.tl.rank_genes_groups(adata, "k", method="t-test", n_genes=60)
    found = terms(annotate_rank_genes(adata, tissue="blood"))
    assert found == {str(names.get(name, name)): identifier for name, identifier in MIXTURE.items()}


def test_a_missing_ranking_is_refused_with_what_is_there(blood):
    blood.uns["neighbors"] = {}
    with pytest.raises(DataValidationError, match=r"no ranking 'rank_genes_groups' in uns; found 'neighbors'"):
        annotate_rank_genes(blood)


def test_a_ranking_of_another_column_is_refused(ranked):
    ranked.obs["leiden"] = ranked.obs["truth"]
    with pytest.raises(DataValidationError, match="of the column 'truth', not of 'leiden'"):
        annotate_rank_genes(ranked, cluster_key="leiden")
    del ranked.obs["truth"]
    with pytest.raises(DataValidationError, match="no cluster column 'truth'"):
        annotate_rank_genes(ranked)


def test_a_ranking_of_clusters_that_are_gone_is_refused(ranked):
    ranked.obs["truth"] = ranked.obs["truth"].cat.rename_categories({"b": "B cells"})
    with pytest.raises(DataValidationError, match="clusters that the column 'truth' lacks: b;"):
        annotate_rank_genes(ranked)
    assert not [c for c in ranked.obs if c.startswith("gptca_")]


@pytest.mark.parametrize("value", [{}, {"params": {"groupby": "truth"}}, {"params": {}, "names": np.zeros(2)}, "text"])
def test_what_is_no_ranking_is_refused(ranked, value):
    ranked.uns["rank_genes_groups"] = value
    with pytest.raises(DataValidationError, match="is no ranking of genes"):
        annotate_rank_genes(ranked)
