import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gca_core.errors import DataValidationError
from gca_core.knowledge.bundled.files import BUNDLED
from gca_core.knowledge.bundled.tissues import Tissues, load_tissues, resolve_tissue, tissue_label, tissue_synonyms


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("blood", "blood"),
        ("PBMC", "blood"),
        ("Bone_Marrow", "bone marrow"),
        ("bone marrow mononuclear cells", "bone marrow"),
        ("Large_Intestine", "large intestine"),
        ("lymph nodes", "lymph node"),
        ("adult lung tissue", "lung"),
        ("skin", "skin of body"),
        ("brain (organoid)", "brain"),
        ("UBERON:0000178", "blood"),
        ("uberon_0000178", "blood"),
    ],
)
def test_a_tissue_is_understood(text: str, label: str) -> None:
    found = resolve_tissue(text)
    assert found is not None
    assert tissue_label(found) == label


@pytest.mark.parametrize("text", ["", "tumor", "batch 3", "UBERON:9999999", "unknown"])
def test_what_is_no_tissue_is_left(text: str) -> None:
    assert resolve_tissue(text) is None


def test_every_alias_means_the_term_that_is_written_beside_it() -> None:
    with (BUNDLED / "tissue_aliases.tsv").open(encoding="utf-8") as source:
        rows = list(csv.DictReader(source, delimiter="\t"))
    assert len(rows) > 30
    assert [row for row in rows if tissue_label(row["ontology_id"]) != row["label"]] == []
    assert [row for row in rows if resolve_tissue(row["alias"]) != row["ontology_id"]] == []


def test_ancestors_are_counted_in_steps() -> None:
    tissues = load_tissues()
    above = tissues.ancestors("UBERON:0002106")
    assert above["UBERON:0000062"] == 2
    assert tissues.label("UBERON:0000062") == "organ"
    assert "UBERON:0002106" not in above


def test_synonyms_hold_the_names_of_the_field() -> None:
    assert "PBMC" in tissue_synonyms("UBERON:0000178")
    assert tissue_synonyms("UBERON:9999999") == ()


def test_an_id_that_is_not_known_is_its_own_label() -> None:
    assert tissue_label("UBERON:9999999") == "UBERON:9999999"
    with pytest.raises(DataValidationError, match="9999999"):
        load_tissues().label("UBERON:9999999")


def test_an_obsolete_id_gives_its_replacement_and_an_alias_needs_a_term() -> None:
    terms = {"UBERON:0000001": ("first", ["shared"], []), "UBERON:0000002": ("second", ["shared"], ["0000001"])}
    tissues = Tissues("x", terms, {"UBERON:0000009": "UBERON:0000002"}, {"2nd": "UBERON:0000002"})
    assert tissues.resolve("UBERON:0000009") == "UBERON:0000002"
    assert tissues.resolve("2nd") == "UBERON:0000002"
    assert tissues.resolve("shared") is None
    assert tissues.ancestors("UBERON:0000002") == {"UBERON:0000001": 1}
    with pytest.raises(DataValidationError, match="UBERON:0000005"):
        Tissues("x", terms, {}, {"none": "UBERON:0000005"})


@given(st.text(max_size=40))
def test_any_text_is_answered_by_a_known_term_or_nothing(text: str) -> None:
    found = resolve_tissue(text)
    assert found is None or found in load_tissues()
