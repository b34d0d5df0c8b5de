import json

import jsonschema
import numpy as np
import pytest

from gca_core.annotation import annotate_from_markers, load_marker_database
from gca_core.annotation.models import UNKNOWN, DatasetReport, FlagReason, Status
from gca_core.errors import ConfigurationError, DataValidationError
from gca_core.knowledge.bundled.ontology import CellOntology, load_ontology

B_CELL = "MS4A1, CD79A, CD79B, CD19, BANK1"
MONOCYTE = ["CD14", "LYZ", "S100A8", "S100A9", "FCN1"]
CHANCE = "OR4F5,KRTAP1-1,PRAMEF1,DEFB121,TAS2R38,MAGEA3"


@pytest.fixture(scope="module")
def ontology() -> CellOntology:
    return load_ontology()


@pytest.fixture(scope="module")
def report():
    lists = {"0": B_CELL, "Zellen ü": MONOCYTE, "": np.array(["CD3D", "CD3E", "CD3G", "TRAC", "CD2"])}
    return annotate_from_markers(lists | {"none": "", "nan": float("nan")}, tissue="blood")


def test_each_list_gets_a_label_under_its_own_name(report, ontology):
    assert [a.cluster for a in report.annotations] == ["0", "Zellen ü", "", "none", "nan"]
    terms = [a.ontology_id for a in report.annotations[:3]]
    for term, expected in zip(terms, ("CL:0000236", "CL:0000766", "CL:0000084"), strict=True):
        assert ontology.is_a(term, expected)
    assert report.annotations[0].markers == ("MS4A1", "CD79A", "CD79B", "CD19", "BANK1")


def test_empty_lists_are_unknown_and_say_so(report):
    for annotation in report.annotations[3:]:
        assert annotation.primary_label == UNKNOWN
        assert annotation.status is Status.FLAGGED
        assert annotation.flag_reasons == (FlagReason.NO_MARKERS_SUPPLIED, FlagReason.LOW_MARKER_OVERLAP)


def test_the_report_says_that_no_cells_were_seen_and_fits_its_schema(report):
    assert (report.n_cells, report.n_genes, report.cluster_key) == (0, 15, "cluster")
    assert report.stats.request_id
    value = json.loads(report.model_dump_json())
    jsonschema.validate(value, DatasetReport.model_json_schema(mode="serialization"))
    assert DatasetReport.model_validate(value) == report


def test_pairs_may_repeat_a_name_and_integers_are_names():
    found = annotate_from_markers([("1", B_CELL), ("1", MONOCYTE)], request_id="r-1")
    assert [a.cluster for a in found.annotations] == ["1", "1"]
    assert len({a.primary_label for a in found.annotations}) == 2
    assert found.stats.request_id == "r-1"


def test_earlier_symbols_case_and_repeats_make_no_difference():
    plain = annotate_from_markers({"p": "JCHAIN,MZB1,XBP1,SDC1,DERL3"})
    other = annotate_from_markers({"p": "igj,IGJ, mzb1 ,XBP1,JCHAIN,sdc1,DERL3"})
    assert other.annotations == plain.annotations


def test_only_the_top_genes_count():
    found = annotate_from_markers({"b": f"{B_CELL},{CHANCE}"}, top_n_markers=5)
    assert found.annotations == annotate_from_markers({"b": B_CELL}).annotations
    with pytest.raises(ConfigurationError, match="equal to 5; found 4"):
        annotate_from_markers({"b": B_CELL}, top_n_markers=4)


def test_genes_that_the_database_lacks_are_counted():
    (annotation,) = annotate_from_markers({"x": f"{CHANCE},MS4A1"}).annotations
    assert annotation.primary_label == UNKNOWN
    assert any(caveat.startswith("only ") and "7 genes are known" in caveat for caveat in annotation.caveats)


def test_a_label_with_too_little_evidence_can_be_kept():
    lists = {"thin": "CD79A,FOO1,FOO2,FOO3,FOO4"}
    (forced,) = annotate_from_markers(lists).annotations
    (kept,) = annotate_from_markers(lists, force_unknown=False).annotations
    assert (forced.primary_label, forced.ontology_id) == (UNKNOWN, None)
    assert kept.primary_label == forced.proposed_label is not None
    assert kept.ontology_id is not None
    assert (kept.status, kept.flag_reasons) == (Status.FLAGGED, forced.flag_reasons)


def test_mouse_symbols_are_judged_by_mouse_markers(ontology):
    found = annotate_from_markers({"b": "Ms4a1,Cd79a,Cd79b,Cd19,Bank1"}, species="mouse", tissue="blood")
    assert ontology.is_a(found.annotations[0].ontology_id, "CL:0000236")
    assert found.annotations[0].markers[0] == "Ms4a1"


@pytest.mark.parametrize(
    ("lists", "options", "match"),
    [
        ({}, {}, "there are no clusters"),
        ({"a": "ENSG00000156738,ENSG00000105369.2"}, {}, r"cluster 'a' are Ensembl ids \(ENSG00000156738"),
        ({"a": "Ms4a1,Cd79a,Cd79b"}, {}, r"mouse symbols \(Ms4a1, .*set the species to mouse"),
        ({"a": "FOO,BAR"}, {}, r"none of the 2 genes is known .*'bundled'; they look like FOO, BAR"),
        ({"a": "CD3D,CD3E;CD2"}, {}, r"cluster 'a': genes are joined by more than one"),
        ({"a": {"CD3D", "CD3E"}}, {}, r"cluster 'a' are of the kind set; expected a list"),
        ({"a": 3}, {}, "cluster 'a' are of the kind int"),
        ({"a": ["CD3D", 7]}, {}, "cluster 'a' hold 7; expected gene symbols"),
    ],
)
def test_what_cannot_be_judged_is_refused(lists, options, match):
    with pytest.raises(DataValidationError, match=match):
        annotate_from_markers(lists, **options)


@pytest.mark.parametrize(
    ("options", "match"), [({"species": "rat"}, "human.*found 'rat'"), ({"tissue": "moon"}, "moon")]
)
def test_unknown_species_and_tissues_are_refused(options, match):
    with pytest.raises(ConfigurationError, match=match):
        annotate_from_markers({"a": B_CELL}, **options)


def test_genes_that_a_type_shares_with_its_subtype_give_the_type():
    shared = ("ADIPOQ", "PLIN1", "CIDEC")
    database = load_marker_database()
    general, white = database.get("CL:0000136"), database.get("CL:0000448")
    assert set(shared) <= set(general.positive) & set(white.positive)
    assert annotate_from_markers({"fat": shared}).annotations[0].ontology_id == general.ontology_id


@pytest.mark.parametrize("n_types", [1, 2, 3])
def test_a_table_of_few_types_labels_what_it_knows_and_leaves_the_rest(tmp_path, n_types):
    types = [
        ("B cell", "CL:0000236", "CD79A MS4A1 CD19 CD79B BANK1"),
        ("natural killer cell", "CL:0000623", "NKG7 GNLY KLRD1 NCAM1 KLRF1"),
        ("monocyte", "CL:0000576", "LYZ FCN1 CTSS CSF1R MNDA"),
    ][:n_types]
    rows = [f"{name},{identifier},{gene},human" for name, identifier, genes in types for gene in genes.split()]
    path = tmp_path / "mine.csv"
    path.write_text("cell_type,ontology_id,gene_symbol,species\n" + "\n".join(rows) + "\n")
    lists = {"b": ["CD79A", "MS4A1", "CD19", "CD79B"], "two": ["CD79A", "MS4A1"], "other": ["CD3E", "PPBP", "ALB"]}
    found = [a.primary_label for a in annotate_from_markers(lists, marker_db=str(path)).annotations]
    assert found == ["B cell", "B cell", UNKNOWN]
