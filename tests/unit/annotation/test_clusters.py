import numpy as np
import pandas as pd
import pytest

from gca_core.annotation import annotate_anndata
from gca_core.annotation.models import UNKNOWN, Confidence, FlagReason, Status
from gca_core.errors import ConfigurationError, DataValidationError
from tests.helpers.blood import MIXTURE, simulate


def terms(report) -> dict[str, str | None]:
    return {a.cluster: a.ontology_id for a in report.annotations}


def test_every_simulated_type_is_found(blood):
    report = annotate_anndata(blood, "truth", tissue="blood")
    assert terms(report) == MIXTURE
    assert {a.confidence for a in report.annotations} == {Confidence.HIGH}
    assert report.n_flagged == 0
    nk = next(a for a in report.annotations if a.cluster == "nk")
    assert {"GNLY", "KLRD1"} <= {g.gene for g in nk.evidence.supporting}
    assert nk.evidence.margin > 0
    assert nk.alternatives


def test_obs_columns_are_written_and_nothing_else_is_touched(blood):
    before = blood.X.copy()
    annotate_anndata(blood, "truth", prefix="my_")
    written = {c for c in blood.obs if c.startswith("my_")}
    assert {"my_label", "my_ontology_id", "my_confidence", "my_status", "my_proposed_label"} <= written
    assert "my_cluster" not in written
    assert np.array_equal(blood.X, before)
    assert not blood.uns
    assert set(blood.obs["my_label"][blood.obs["truth"] == "b"]) == {"B cell"}


@pytest.mark.parametrize(
    "names",
    [
        {name: i for i, name in enumerate(MIXTURE)},
        {name: f"Gruppe {name} ä/ö=1" for name in MIXTURE},
        {"b": 1, "nk": "1", "cd14": 1.5, "cd16": "", "mega": "=cmd()"},
    ],
)
def test_cluster_names_may_be_anything(blood, names):
    blood.obs["k"] = pd.Series([names[t] for t in blood.obs["truth"]], index=blood.obs_names, dtype=object)
    report = annotate_anndata(blood, "k", tissue="blood")
    found = blood.obs.groupby("truth", observed=True)["gptca_ontology_id"].agg(lambda ids: set(ids.astype(str)))
    assert found.to_dict() == {name: {identifier} for name, identifier in MIXTURE.items()}
    assert sorted(a.cluster for a in report.annotations) == sorted(str(name) for name in names.values())


def test_unused_categories_and_cells_without_a_cluster_are_no_obstacle(blood):
    names = blood.obs["truth"].astype(object)
    names.iloc[:5] = None
    blood.obs["k"] = pd.Categorical(names, categories=["never", *MIXTURE])
    report = annotate_anndata(blood, "k", tissue="blood")
    assert terms(report) == MIXTURE
    assert blood.obs["gptca_label"].iloc[:5].isna().all()
    assert blood.obs["gptca_label"].iloc[5:].notna().all()


def test_one_single_cluster_is_labelled(database):
    adata = simulate(database, {"b": "CL:0000236"})
    report = annotate_anndata(adata, "truth")
    assert terms(report) == {"b": "CL:0000236"}


def test_a_cluster_of_one_cell_is_labelled(blood):
    names = blood.obs["truth"].astype(str)
    names.iloc[0] = "lone"
    blood.obs["k"] = names
    assert "lone" in terms(annotate_anndata(blood, "k"))


def test_the_answer_is_the_parent_where_children_are_alike(database):
    adata = simulate(database, {"b": "CL:0000236", "cd14": "CL:0002057", "cd16": "CL:0002396"})
    adata.obs["k"] = adata.obs["truth"].map({"b": "b", "cd14": "mono", "cd16": "mono"}).astype("category")
    mono = annotate_anndata(adata, "k", tissue="blood").annotations[1]
    assert mono.ontology_id in {"CL:0000576", "CL:0001054"}


def test_cells_without_markers_are_unknown(blood):
    noise = np.random.default_rng(1).poisson(0.3, size=blood.shape).astype(np.float32)
    blood.X = noise
    blood.obs["k"] = np.where(np.arange(blood.n_obs) % 2, "x", "y")
    report = annotate_anndata(blood, "k")
    assert {a.primary_label for a in report.annotations} == {UNKNOWN}
    for a in report.annotations:
        assert a.ontology_id is None
        assert a.status is Status.FLAGGED
        assert a.confidence is Confidence.LOW
        assert FlagReason.LOW_MARKER_OVERLAP in a.flag_reasons


def test_clusters_of_one_type_do_not_outshine_each_other(database):
    adata = simulate(database, {"b": "CL:0000236", "mega": "CL:0000556", "hep": "CL:0000182"})
    rng = np.random.default_rng(0)
    b = np.flatnonzero(adata.obs["truth"] == "b")
    adata.obs["k"] = adata.obs["truth"].astype(str)
    adata.obs.iloc[b[:30], adata.obs.columns.get_loc("k")] = "b shallow"
    adata.X[b[:30]] = rng.binomial(adata.X[b[:30]].astype(int), 0.4)
    found = terms(annotate_anndata(adata, "k"))
    assert found["b"] == found["b shallow"] == "CL:0000236"


def test_a_mixture_of_unrelated_types_is_flagged_as_ambiguous(database):
    adata = simulate(database, {"b": "CL:0000236", "mega": "CL:0000556", "hep": "CL:0000182"})
    b, mega = (np.flatnonzero(adata.obs["truth"] == t) for t in ("b", "mega"))
    adata.X[b] += adata.X[mega]
    adata = adata[adata.obs["truth"] != "mega"].copy()
    doublets = annotate_anndata(adata, "truth").annotations[0]
    assert doublets.cluster == "b"
    assert FlagReason.AMBIGUOUS_EVIDENCE in doublets.flag_reasons
    assert doublets.confidence is Confidence.LOW


def test_a_type_foreign_to_the_tissue_is_flagged(database):
    adata = simulate(database, {"hep": "CL:0000182", "b": "CL:0000236"})
    report = annotate_anndata(adata, "truth", tissue="brain")
    hepatocyte = report.annotations[1]
    assert hepatocyte.ontology_id == "CL:0000182"
    assert FlagReason.TISSUE_MISMATCH in hepatocyte.flag_reasons


def test_the_same_input_gives_the_same_report(simulated):
    reports = [annotate_anndata(simulated.copy(), "truth") for _ in range(2)]
    assert reports[0].model_dump(exclude={"stats"}) == reports[1].model_dump(exclude={"stats"})


def test_a_missing_cluster_column_is_refused_with_the_ones_there(blood):
    with pytest.raises(DataValidationError, match=r"no cluster column 'leiden' in obs; found 'truth'"):
        annotate_anndata(blood, "leiden")
    assert list(blood.obs) == ["truth"]


def test_a_missing_label_column_is_refused(blood):
    with pytest.raises(DataValidationError, match="no label column 'known'"):
        annotate_anndata(blood, "truth", labels_key="known")


def test_a_column_of_measurements_is_refused_as_clusters(blood):
    blood.obs["n_counts"] = np.linspace(0, 1, blood.n_obs)
    with pytest.raises(DataValidationError, match="looks like a measurement"):
        annotate_anndata(blood, "n_counts")


def test_an_empty_cluster_column_is_refused(blood):
    blood.obs["k"] = pd.Categorical([None] * blood.n_obs, categories=["a"])
    with pytest.raises(DataValidationError, match="is empty"):
        annotate_anndata(blood, "k")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"tissue": "moon"}, "'moon'.*it knows"),
        ({"species": "yeast"}, "'yeast'"),
        ({"top_n_markers": 2}, "top_n_markers"),
        ({"resolution": 0.0}, "resolution"),
        ({"min_overlap": 0}, "min_overlap"),
    ],
)
def test_options_out_of_range_are_refused(blood, options, match):
    with pytest.raises(ConfigurationError, match=match):
        annotate_anndata(blood, "truth", **options)
