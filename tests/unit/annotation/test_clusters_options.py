"""Options of annotating clusters: species, thin evidence, corrections, statistics, files and odd cluster names."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from gca_core.annotation import annotate_anndata, annotate_from_markers
from gca_core.annotation.labels.corrections import Correction, Corrections
from gca_core.annotation.labels.labelling import Knowledge, SpeciesMarkers, label_clusters, species_markers
from gca_core.annotation.markers.load import load_marker_database
from gca_core.annotation.models import UNKNOWN, FlagReason, Status
from gca_core.errors import ConfigurationError, DataValidationError
from tests.helpers.blood import MIXTURE, simulate

MOUSE = {"b": "CL:0000236", "nk": "CL:0000623", "hep": "CL:0000182"}


def terms(report) -> dict[str, str | None]:
    return {a.cluster: a.ontology_id for a in report.annotations}


def test_mouse_cells_are_judged_by_mouse_markers():
    database = load_marker_database(species="mouse")
    adata = simulate(database, MOUSE)
    report = annotate_anndata(adata, "truth", species="mouse")
    assert terms(report) == MOUSE
    assert not any(FlagReason.SPECIES_MISMATCH in a.flag_reasons for a in report.annotations)
    b = next(a for a in report.annotations if a.cluster == "b")
    assert "Cd79a" in {g.gene for g in b.evidence.supporting}
    assert report.marker_database.n_types == len(database.types)


def test_a_table_without_rows_for_mouse_is_matched_by_letters_and_it_is_flagged(tmp_path, simulated, database):
    rows = [(t.ontology_id, gene) for t in database.types if t.ontology_id in MIXTURE.values() for gene in t.positive]
    table = tmp_path / "human.csv"
    table.write_text("cell_type,gene_symbol,species\n" + "".join(f"{t},{gene},human\n" for t, gene in rows))
    adata = simulated.copy()
    adata.var_names = [name.capitalize() for name in adata.var_names]
    report = annotate_anndata(adata, "truth", species="mouse", marker_db=table)
    labelled = [a for a in report.annotations if a.ontology_id is not None]
    assert len(labelled) >= 4
    for annotation in labelled:
        assert FlagReason.SPECIES_MISMATCH in annotation.flag_reasons
        assert annotation.status is Status.FLAGGED
        assert annotation.confidence != "High"
        assert any("human markers only" in caveat for caveat in annotation.caveats)


def test_only_terms_that_a_species_lacks_are_known_elsewhere():
    markers = species_markers(None, "mouse")
    own = {t.ontology_id for t in markers.database.types}
    human = {t.ontology_id for t in load_marker_database().types}
    assert markers.elsewhere == human - own
    assert species_markers(None, "human").elsewhere == frozenset()
    with pytest.raises(ConfigurationError, match="'yeast'"):
        species_markers(None, "yeast")


def noise(blood: ad.AnnData) -> ad.AnnData:
    """Clusters whose few markers are too little for a label."""
    rng = np.random.default_rng(1)
    blood.X = rng.poisson(0.3, size=blood.shape).astype(np.float32)
    blood.obs["k"] = np.where(np.arange(blood.n_obs) % 2, "x", "y")
    markers = [j for j, gene in enumerate(blood.var_names) if gene in {"CD79A"}]
    blood.X[np.ix_(np.arange(blood.n_obs) % 2 == 1, markers)] += 9
    return blood


def test_thin_evidence_forces_unknown_unless_told_otherwise(blood):
    forced = annotate_anndata(noise(blood), "k").annotations[0]
    assert forced.primary_label == UNKNOWN
    assert forced.proposed_label is not None
    kept = annotate_anndata(blood, "k", force_unknown=False).annotations[0]
    assert kept.primary_label == kept.proposed_label == forced.proposed_label
    assert kept.ontology_id is not None
    assert kept.flag_reasons == forced.flag_reasons
    assert kept.status is Status.FLAGGED


def test_more_markers_can_be_asked_for(blood):
    report = annotate_anndata(blood, "truth", min_overlap=1000)
    assert {a.primary_label for a in report.annotations} == {UNKNOWN}
    assert all(FlagReason.LOW_MARKER_OVERLAP in a.flag_reasons for a in report.annotations)


def correction_of(annotation, label="plasma cell", term="CL:0000786") -> Correction:
    return Correction(
        cluster=annotation.cluster,
        genes=annotation.markers[:20],
        label=label,
        ontology_id=term,
        who="ada",
        when="2030-01-31T09:30:00+00:00",
        replaced=annotation.primary_label,
    )


def test_corrections_replace_labels_and_outlive_another_annotation(blood):
    first = annotate_anndata(blood, "truth", tissue="blood")
    assert first.stats.overrides == 0
    assert not blood.uns
    given = Corrections(corrections=(correction_of(first.annotations[0]),))
    corrected = annotate_anndata(blood, "truth", tissue="blood", corrections=given)
    assert corrected.stats.overrides == 1
    for report in (corrected, annotate_anndata(blood, "truth", tissue="blood")):
        b = report.annotations[0]
        assert (b.primary_label, b.ontology_id, b.annotator) == ("plasma cell", "CL:0000786", "review")
        assert (b.override.who, b.override.replaced) == ("ada", "B cell")
        assert report.stats.overrides == 1
    assert set(blood.obs["gptca_label"][blood.obs["truth"] == "b"]) == {"plasma cell"}


def test_corrections_that_cannot_be_read_are_refused(blood):
    blood.uns["gca_annotation"] = {"corrections": "no json"}
    with pytest.raises(DataValidationError, match=r"\['corrections'\] can't be read"):
        annotate_anndata(blood, "truth")


def test_statistics_say_what_the_run_took_and_which_it_was(blood):
    stats = annotate_anndata(blood, "truth", request_id="run-7").stats
    assert stats.request_id == "run-7"
    assert {"read", "rank", "weigh", "annotate", "write"} <= set(stats.stage_seconds)
    assert 0 < sum(stats.stage_seconds.values()) <= stats.seconds + 0.01
    assert (stats.cache_hits, stats.llm_batches, stats.overrides, stats.cost) == (0, 0, 0, None)
    assert annotate_anndata(blood, "truth").stats.request_id not in {"", "run-7"}


@pytest.mark.parametrize("stored", ["csr", "dense"])
def test_a_backed_anndata_gives_the_same_labels(blood, tmp_path, stored):
    if stored == "csr":
        import scipy.sparse as sp

        blood.X = sp.csr_matrix(blood.X)
    blood.write_h5ad(tmp_path / "a.h5ad")
    expected = annotate_anndata(blood, "truth")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    found = annotate_anndata(backed, "truth")
    assert backed.isbacked
    assert found.annotations == expected.annotations
    assert (backed.obs["gptca_label"] == blood.obs["gptca_label"]).all()
    part = backed[np.arange(0, 300, 2)]
    with pytest.raises(DataValidationError, match="to_memory"):
        annotate_anndata(part, "truth")
    assert annotate_anndata(part.to_memory(), "truth").n_cells == 150


@pytest.mark.parametrize(
    "names",
    [
        [10, 2, 33, 4, 5],
        [1, "1", 2.5, False, "x"],
        [("a", 1), ("a", 2), "b", "c", "d"],
        ["NaN", "nan", "None", "", " "],
        [pd.Timestamp("2030-01-01"), pd.Timestamp("2031-01-01"), pd.Timestamp("2032-01-01"), None, None],
        [0.5, 1.5, np.nan, 2.5, 3.5],
    ],
)
def test_names_of_any_type_keep_clusters_apart(blood, names):
    given = dict(zip(MIXTURE, names, strict=True))
    blood.obs["k"] = pd.Series([given[t] for t in blood.obs["truth"]], index=blood.obs_names, dtype=object)
    annotate_anndata(blood, "k", tissue="blood")
    found = blood.obs.groupby("truth", observed=True)["gptca_ontology_id"].agg(lambda ids: set(ids.dropna()))
    for name, identifier in MIXTURE.items():
        missing = given[name] is None or given[name] is np.nan
        assert found[name] == (set() if missing else {identifier})


def test_nothing_is_labelled_of_no_clusters(database):
    from gca_core.annotation.scoring.marker_model import build_model
    from gca_core.knowledge.bundled.ontology import load_ontology

    ontology = load_ontology()
    model = build_model(database, None, ontology)
    knowledge = Knowledge(SpeciesMarkers(database), ontology, model, "human", None)
    empty = np.zeros((0, len(model.genes)))
    assert label_clusters([], empty, knowledge, None, min_overlap=2) == ([], None)


@pytest.mark.parametrize(
    ("genes", "min_overlap", "lost", "letters", "flagged"),
    [
        ("Cd79a, Cd79b, Ms4a1", 2, "", "", False),
        # one gene beside sound ones decides nothing
        ("Cd79a, Cd79b, Acsm2", 2, "Acsm2", "", False),
        ("Cd79a, Cd79b, Gnly", 2, "", "GNLY", False),
        ("Cd79a, Cd79b, Acsm2, Car8", 2, "Acsm2, Car8", "", False),
        # fewer than half are sound
        ("Cd79a, Cd79b, Acsm2, Car8, Hba-a1", 2, "Acsm2, Car8, Hba-a1", "", True),
        ("Cd79a, Cd79b, Acsm2, Car8, Gnly", 2, "Acsm2, Car8", "GNLY", True),
        # fewer are sound than a label needs
        ("Cd79a, Gnly", 2, "", "GNLY", True),
        ("Cd79a, Cd79b, Ms4a1, Acsm2", 4, "Acsm2", "", True),
        # few they are, and no gene was lost on the way
        ("Cd79a, Cd79b, Ms4a1", 4, "", "", False),
    ],
)
def test_a_mouse_label_is_flagged_where_too_few_of_its_human_markers_have_an_ortholog(
    tmp_path, genes, min_overlap, lost, letters, flagged
):
    table = tmp_path / "human.csv"
    known = ("CD79A", "CD79B", "MS4A1", "GNLY", "ACSM2A", "CA8", "HBA1")
    table.write_text("cell_type,gene_symbol,species\n" + "".join(f"B cell,{g},human\n" for g in known))
    report = annotate_from_markers({"1": genes}, species="mouse", marker_db=table, min_overlap=min_overlap)
    (found,) = report.annotations
    assert (FlagReason.ORTHOLOG_UNMAPPED in found.flag_reasons) == flagged
    caveats = " ".join(found.caveats)
    assert (f"count for nothing: {lost}" in caveats) == bool(lost)
    assert (f"support the label: {letters}" in caveats) == bool(letters)
