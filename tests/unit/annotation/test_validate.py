import json

import jsonschema
import numpy as np
import pandas as pd
import pytest

from gca_core.annotation import validate_anndata
from gca_core.annotation.labels.given import given_labels
from gca_core.annotation.markers.database import Marker, MarkerDatabase
from gca_core.annotation.models import DatasetReport, FlagReason, Status
from gca_core.errors import ConfigurationError, DataValidationError

NAMES = {"b": "B cell", "nk": "NK cells", "cd14": "CD14+ monocyte", "cd16": "CD16+ monocyte", "mega": "megakaryocyte"}


@pytest.fixture
def labelled(blood):
    blood.obs["label"] = blood.obs["truth"].astype(str).map(NAMES)
    return blood


def by_cluster(report):
    return {a.cluster: a for a in report.annotations}


def relabel(adata, group, label):
    adata.obs["label"] = adata.obs["label"].where(adata.obs["truth"] != group, label)


def test_right_labels_stand_and_none_is_changed(labelled):
    before = labelled.obs.copy()
    report = validate_anndata(labelled, "label", tissue="blood")
    assert {a.cluster: a.status for a in report.annotations} == dict.fromkeys(NAMES.values(), Status.SUPPORTED)
    assert [a.primary_label for a in report.annotations] == sorted(NAMES.values())
    assert (report.judged_column, report.cluster_key) == ("label", "label")
    pd.testing.assert_frame_equal(labelled.obs[before.columns], before)
    assert set(labelled.obs["gptca_status"]) == {"supported"}
    assert set(labelled.obs.loc[labelled.obs["truth"] == "b", "gptca_ontology_id"]) == {"CL:0000236"}


def test_a_wrong_label_is_flagged_and_a_better_one_named(labelled):
    relabel(labelled, "b", "natural killer cell")
    report = validate_anndata(labelled, "label", cluster_key="truth", tissue="blood")
    wrong = by_cluster(report)["b"]
    assert wrong.primary_label == "natural killer cell"
    assert FlagReason.LOW_MARKER_OVERLAP in wrong.flag_reasons
    assert (wrong.alternatives[0].ontology_id, wrong.proposed_label) == ("CL:0000236", "B cell")
    assert by_cluster(report)["nk"].status is Status.SUPPORTED
    cells = labelled.obs[labelled.obs["truth"] == "b"]
    assert set(cells["gptca_proposed_label"]) == {"B cell"}
    assert cells["gptca_flag_reasons"].str.contains("low_marker_overlap").all()


def test_labels_without_a_meaning_are_not_judged_but_get_a_proposal(labelled):
    labels = {"b": "thingamajig 7", "nk": None, "cd14": "  ", "mega": "Unknown or Novel"}
    for group, label in labels.items():
        relabel(labelled, group, label)
    found = by_cluster(validate_anndata(labelled, "label", cluster_key="truth"))
    assert found["b"].flag_reasons == (FlagReason.MISSING_ONTOLOGY_ID, FlagReason.VALIDATION_MISSING)
    for group in ("nk", "cd14", "mega"):
        assert found[group].flag_reasons == (FlagReason.VALIDATION_MISSING,)
    assert {found[group].ontology_id for group in labels} == {None}
    assert {found[group].confidence.value for group in labels} == {"Low"}
    assert (found["b"].proposed_label, found["mega"].proposed_label) == ("B cell", "megakaryocyte")
    assert found["mega"].primary_label == "Unknown or Novel"


def test_ids_are_held_against_their_labels(labelled):
    ids = {"b": "CL:0000623", "nk": "CL_0000623", "cd14": "CL:0000576", "cd16": "", "mega": "CL:9999999"}
    labelled.obs["id"] = labelled.obs["truth"].astype(str).map(ids)
    report = validate_anndata(labelled, "label", cluster_key="truth", ontology_column="id")
    flags = {a.cluster: a.flag_reasons for a in report.annotations}
    assert flags == {
        "b": (FlagReason.ONTOLOGY_MISMATCH,),
        "nk": (),
        "cd14": (),
        "cd16": (FlagReason.MISSING_ONTOLOGY_ID,),
        "mega": (FlagReason.MISSING_ONTOLOGY_ID,),
    }
    assert "monocyte; the label was judged" in by_cluster(report)["cd14"].caveats[0]


def test_an_id_stands_in_for_a_name_that_is_none(labelled):
    relabel(labelled, "b", "cluster seven")
    labelled.obs["id"] = np.where(labelled.obs["truth"] == "b", "CL:0000236", "")
    found = by_cluster(validate_anndata(labelled, "label", cluster_key="truth", ontology_column="id"))["b"]
    assert (found.primary_label, found.ontology_id, found.status) == ("cluster seven", "CL:0000236", Status.SUPPORTED)


def test_labels_that_the_marker_database_lacks_say_so(labelled):
    genes = [str(g) for g in labelled.var_names[:30]]
    rows = [Marker(cell_type="B cell", ontology_id="CL:0000236", gene_symbol=g) for g in genes]
    database = MarkerDatabase(rows, name="mine", content_hash="0")
    report = validate_anndata(labelled, "label", marker_db=database)
    assert by_cluster(report)["megakaryocyte"].flag_reasons == (FlagReason.LABEL_NOT_IN_KB,)


def test_types_of_the_other_species_are_told(labelled, tmp_path):
    genes = [str(g) for g in labelled.var_names[:30]]
    rows = [f"B cell,{g},human" for g in genes] + ["megakaryocyte,Ppbp,mouse"]
    table = tmp_path / "m.csv"
    table.write_text("cell_type,gene_symbol,species\n" + "\n".join(rows) + "\n")
    found = by_cluster(validate_anndata(labelled, "label", marker_db=table))["megakaryocyte"]
    assert set(found.flag_reasons) == {FlagReason.LABEL_NOT_IN_KB, FlagReason.SPECIES_MISMATCH}


def test_types_of_another_tissue_are_flagged(labelled):
    found = by_cluster(validate_anndata(labelled, "label", tissue="kidney"))["megakaryocyte"]
    assert FlagReason.TISSUE_MISMATCH in found.flag_reasons


def test_a_mixed_group_is_judged_by_its_commonest_label(labelled):
    labelled.obs.iloc[:20, labelled.obs.columns.get_loc("label")] = "T cell"
    found = by_cluster(validate_anndata(labelled, "label", cluster_key="truth"))["b"]
    assert found.primary_label == "B cell"
    assert "67 % of the labelled cells carry this label; others: T cell" in found.caveats


def test_the_commonest_label_is_found_in_any_column():
    groups = pd.Series(pd.Categorical([1, 1, 1, 2, 2, None]))
    labels = pd.Series([7, 7, "x", None, " ", "x"])
    found = given_labels(groups, labels, pd.Series(["a", "b", "c", "d", None, "e"]))
    assert (found[0].label, found[0].identifier, found[0].n_same, found[0].others) == ("7", "a", 2, ("x",))
    assert found[1].label is None


def test_the_report_fits_its_schema(labelled):
    report = validate_anndata(labelled, "label", cluster_key="truth", request_id="r-7")
    jsonschema.validate(json.loads(report.model_dump_json()), DatasetReport.model_json_schema(mode="serialization"))
    assert report.stats.request_id == "r-7"


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"labels_key": "nope"}, DataValidationError, r"no label column 'nope'.*'truth'"),
        ({"labels_key": "label", "cluster_key": "nope"}, DataValidationError, "no cluster column"),
        ({"labels_key": "label", "ontology_column": "nope"}, DataValidationError, "no ontology column"),
        ({"labels_key": "empty"}, DataValidationError, "every cell's label is missing"),
        ({"labels_key": "gptca_status"}, ConfigurationError, "'gptca_status' would be overwritten"),
        ({"labels_key": "label", "top_n_markers": 2}, ConfigurationError, "equal to 5; found 2"),
    ],
)
def test_wrong_columns_are_refused_before_anything_is_written(labelled, options, error, match):
    labelled.obs["empty"] = None
    labelled.obs["gptca_status"] = "B cell"
    before = list(labelled.obs.columns)
    with pytest.raises(error, match=match):
        validate_anndata(labelled, **options)
    assert list(labelled.obs.columns) == before
