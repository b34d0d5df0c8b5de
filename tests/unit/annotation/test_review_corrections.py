import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gca_core.annotation.labels.corrections import (
    Correction,
    Corrections,
    apply_corrections,
    load_corrections,
    place_corrections,
)
from gca_core.annotation.models import UNKNOWN, Annotation, FlagReason, Status
from gca_core.errors import DataValidationError
from gca_core.io import write_json
from tests.helpers.annotations import make_annotation

WHEN = "2030-01-31T09:30:00+00:00"
GENES = tuple(f"G{i}" for i in range(30))


def cluster(name: str = "3", *, genes=GENES, label: str = UNKNOWN, term: str | None = None) -> Annotation:
    fields = {
        "flag_reasons": (FlagReason.LOW_MARKER_OVERLAP,),
        "rationale": "too few markers.",
        "proposed_label": "B cell",
    }
    return make_annotation(name, label, flagged=True, ontology_id=term, markers=tuple(genes), **fields)


def correction(name: str = "3", *, genes=GENES[:20], label: str = "B cell", **fields) -> Correction:
    given = {"ontology_id": "CL:0000236", "who": "ada", "when": WHEN, "replaced": UNKNOWN} | fields
    return Correction(cluster=name, genes=tuple(genes), label=label, **given)


def corrections(*values: Correction) -> Corrections:
    return Corrections(corrections=values)


def test_a_correction_replaces_the_label_and_keeps_what_the_annotator_found():
    before = cluster()
    (after,), placed = apply_corrections([before], corrections(correction(note="seen by eye")))
    assert placed == 1
    assert (after.primary_label, after.ontology_id, after.status) == ("B cell", "CL:0000236", Status.SUPPORTED)
    assert after.annotator == "review"
    assert (after.override.who, after.override.when, after.override.replaced) == ("ada", WHEN, UNKNOWN)
    assert after.override.note == "seen by eye"
    assert (after.flag_reasons, after.evidence, after.markers) == (before.flag_reasons, before.evidence, before.markers)
    assert after.rationale.endswith("too few markers.")
    assert before.override is None


def test_putting_the_same_corrections_on_twice_changes_nothing_more():
    once, _ = apply_corrections([cluster()], corrections(correction()))
    assert apply_corrections(once, corrections(correction()))[0] == once


def test_a_second_decision_names_the_annotators_label_as_replaced():
    once, _ = apply_corrections([cluster()], corrections(correction()))
    (twice,), _ = apply_corrections(once, corrections(correction(label="T cell", ontology_id="CL:0000084", who="bob")))
    assert (twice.primary_label, twice.override.replaced, twice.override.who) == ("T cell", UNKNOWN, "bob")
    assert twice.rationale.count("The annotator found") == 1


def test_a_correction_of_another_cluster_with_the_same_name_is_left_out(caplog):
    other = cluster(genes=[f"X{i}" for i in range(30)])
    assert apply_corrections([other], corrections(correction())) == ([other], 0)
    assert "'3'" in caplog.text
    assert "shares only 0 %" in caplog.text


def test_a_correction_survives_a_ranking_that_moves_some_genes():
    moved = cluster(genes=GENES[8:28])
    assert apply_corrections([moved], corrections(correction()))[1] == 1


def test_a_neighbour_that_took_the_name_does_not_get_the_correction():
    neighbour = cluster("3", genes=GENES[5:25])
    itself = cluster("4", genes=GENES)
    placed = place_corrections([neighbour, itself], corrections(correction("3")))
    assert placed.n_placed == 0
    assert "'4' is more like" in placed.unplaced[0][1]


def test_a_correction_for_a_cluster_that_is_gone_is_named():
    placed = place_corrections([cluster("3")], corrections(correction("9")))
    assert placed.annotations == (cluster("3"),)
    assert [(c.cluster, reason) for c, reason in placed.unplaced] == [("9", "there is no cluster of that name")]


def test_of_the_corrections_of_several_runs_the_one_with_most_genes_in_common_is_taken():
    a = correction(run="a", genes=GENES[8:28], label="T cell", ontology_id="CL:0000084")
    b = correction(run="b", genes=GENES[:20])
    for order in ((a, b), (b, a)):
        placed = place_corrections([cluster()], corrections(*order))
        assert placed.annotations[0].primary_label == "B cell"
        assert [c.run for c, _ in placed.unplaced] == ["a"]


def test_clusters_without_genes_are_told_apart_by_name_alone():
    bare = [cluster("1", genes=()), cluster("2", genes=())]
    placed = place_corrections(bare, corrections(correction("2", genes=())))
    assert [a.override is not None for a in placed.annotations] == [False, True]


def test_unknown_and_free_labels_carry_no_ontology_id():
    for label in (UNKNOWN, "doublets of B and T"):
        (after,), _ = apply_corrections([cluster()], corrections(correction(label=label, ontology_id=None)))
        assert (after.primary_label, after.ontology_id) == (label, None)


def test_a_later_decision_wins_and_the_same_decision_keeps_its_first_time():
    first = corrections(correction())
    again = correction(who="bob", when="2031-01-31T09:30:00+00:00")
    assert first.with_later([again]) == first
    changed = correction(label="T cell", ontology_id="CL:0000084", who="bob")
    assert first.with_later([changed]).corrections == (changed,)


def test_two_corrections_of_one_cluster_are_refused():
    with pytest.raises(ValidationError, match="two corrections of cluster '3'"):
        corrections(correction(), correction(label="T cell"))


def test_the_corrections_of_a_run_are_taken_out_of_a_cohorts():
    cohort = corrections(correction(run="a"), correction(run="b", label="T cell", ontology_id="CL:0000084"))
    assert [c.label for c in cohort.of_run("b").corrections] == ["T cell"]
    assert cohort.of_run("b").corrections[0].run == ""


def test_times_have_to_be_in_utc():
    for when in ("yesterday", "2030-01-31", "2030-01-31T09:30:00", "2030-01-31T09:30:00+02:00"):
        with pytest.raises(ValidationError):
            correction(when=when)


def test_corrections_come_back_from_disk_as_they_went(tmp_path):
    value = corrections(correction(note='"<b>"\n'), correction("über 1", label=UNKNOWN, ontology_id=None))
    write_json(tmp_path / "corrections.json", value)
    assert load_corrections(tmp_path / "corrections.json") == value


@pytest.mark.parametrize(
    "content", ["{}{", "[]", '{"corrections": [{"cluster": "1"}]}', '{"version": 2, "corrections": []}', '{"x": 1}']
)
def test_what_is_no_file_of_corrections_is_refused_by_name(tmp_path, content):
    path = tmp_path / "corrections.json"
    path.write_text(content)
    with pytest.raises(DataValidationError, match=r"corrections\.json"):
        load_corrections(path)


@given(
    st.lists(
        st.builds(
            correction,
            st.sampled_from(["1", "2", " 2", "x"]),
            genes=st.lists(st.sampled_from(GENES), max_size=20, unique=True),
            label=st.sampled_from(["B cell", UNKNOWN]),
        ),
        max_size=6,
        unique_by=lambda c: (c.cluster, frozenset(c.genes)),
    ),
    st.lists(st.lists(st.sampled_from(GENES), max_size=30, unique=True), max_size=3),
)
def test_every_correction_is_placed_once_or_named_as_unplaced(given_corrections, genes):
    annotations = [cluster(str(i + 1), genes=g) for i, g in enumerate(genes)]
    value = Corrections.model_validate(json.loads(corrections(*given_corrections).model_dump_json()))
    placed = place_corrections(annotations, value)
    assert placed.n_placed + len(placed.unplaced) == len(given_corrections)
    assert placed.n_placed == sum(a.override is not None for a in placed.annotations)
    assert [a.cluster for a in placed.annotations] == [a.cluster for a in annotations]
