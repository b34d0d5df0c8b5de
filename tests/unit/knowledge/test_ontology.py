import csv
from importlib import resources
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gca_core.errors import DataValidationError
from gca_core.knowledge.bundled.ontology import CellOntology, load_ontology

CLASSICAL, NON_CLASSICAL = "CL:0002057", "CL:0002396"


@pytest.fixture(scope="module")
def ontology() -> CellOntology:
    return load_ontology()


def test_every_label_resolves_to_its_own_term(ontology):
    terms = ontology.descendants("CL:0000000")
    assert len(terms) > 3000
    assert [i for i in terms if ontology.resolve(ontology.label(i)) != i] == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CD14+ monocyte", CLASSICAL),
        ("CD14+ Monocytes", CLASSICAL),
        ("FCGR3A+ Monocytes", NON_CLASSICAL),
        ("CD16+ monocyte", NON_CLASSICAL),
        ("non-classical monocytes", "CL:0000875"),
        ("CD14-positive monocyte", "CL:0001054"),
        ("cd14-positive, cd16-negative classical monocyte", CLASSICAL),
        ("NK cells", "CL:0000623"),
        ("B", "CL:0000236"),
        ("b_cells", "CL:0000236"),
        ("CD4 T cells", "CL:0000624"),
        ("T cells, CD4+", "CL:0000624"),
        ("CD8+ T-cells", "CL:0000625"),
        ("CD4+/CD25 T Reg", "CL:0000815"),
        ("CD4+/CD45RA+/CD25- Naive T", "CL:0000895"),
        ("CD8+/CD45RA+ Naive Cytotoxic", "CL:0000900"),
        ("CD4+/CD45RO+ Memory", "CL:0000897"),
        ("CD56+ NK", "CL:0000623"),
        ("CD34+", "CL:0008001"),
        ("Dendritic", "CL:0000451"),
        ("Megakaryocytes", "CL:0000556"),
        ("plasmacytoid DCs", "CL:0000784"),
        ("  CL_0000084 ", "CL:0000084"),
        ("cl:0000084", "CL:0000084"),
        ("beta", "CL:0000169"),
    ],
)
def test_names_of_the_field_are_understood(ontology, text, expected):
    assert ontology.resolve(text) == expected


@pytest.mark.parametrize(
    "text", ["", "  ", "+", "cell line X", "CL:9999999", "granny smith", "cluster 3", "CL:0000002"]
)
def test_what_is_no_cell_type_resolves_to_nothing(ontology, text):
    assert ontology.resolve(text) is None


def test_an_obsolete_id_gives_its_replacement(ontology):
    assert ontology.resolve("CL:0000003") == "CL:0000000"


def test_every_alias_resolves_to_the_id_beside_it(ontology):
    path = resources.files("gca_core.knowledge") / "data" / "cell_ontology_aliases.tsv"
    rows = list(csv.DictReader(path.read_text().splitlines(), delimiter="\t"))
    wrong = [row for row in rows if ontology.resolve(row["alias"]) != row["ontology_id"]]
    assert rows
    assert wrong == []


@given(st.text(max_size=40))
def test_any_text_is_answered_by_a_known_term_or_nothing(text):
    found = load_ontology().resolve(text)
    assert found is None or found in load_ontology()


def test_suggestions_survive_a_typing_error(ontology):
    assert "natural killer cell" in ontology.suggest("naturel kiler cell")
    assert "monocyte" in ontology.suggest("monocite")
    assert ontology.suggest("qqqqzzzz") == []


def test_monocytes_are_two_steps_apart_below_their_common_parent(ontology):
    assert ontology.distance(CLASSICAL, NON_CLASSICAL) == 2
    assert ontology.common_parent([CLASSICAL, NON_CLASSICAL]) == "CL:0001054"
    assert ontology.is_a(CLASSICAL, "CL:0000576")
    assert not ontology.is_a("CL:0000576", CLASSICAL)
    assert not ontology.is_a(CLASSICAL, NON_CLASSICAL)


def test_relations_are_reflexive_and_agree_with_each_other(ontology):
    assert ontology.is_a(CLASSICAL, CLASSICAL)
    assert ontology.distance(CLASSICAL, CLASSICAL) == 0
    assert ontology.common_parent([CLASSICAL]) == CLASSICAL
    assert CLASSICAL not in ontology.ancestors(CLASSICAL)
    assert CLASSICAL in ontology.descendants("CL:0000576")
    assert ontology.distance(CLASSICAL, "CL:0000576") == ontology.ancestors(CLASSICAL)["CL:0000576"]


def test_the_common_parent_of_lymphocytes_is_found(ontology):
    assert ontology.label(ontology.common_parent(["CL:0000084", "CL:0000236", "CL:0000623"])) == "lymphocyte"


def test_unknown_ids_and_empty_sets_are_refused(ontology):
    for call in (
        lambda: ontology.label("CL:9999999"),
        lambda: ontology.distance(CLASSICAL, "CL:9999999"),
        lambda: ontology.common_parent([]),
        lambda: CellOntology("x", {"CL:1": ("a", [], {})}, aliases=[("b", "CL:2")]),
    ):
        with pytest.raises(DataValidationError):
            call()


def test_an_ambiguous_synonym_means_nothing():
    terms = {"CL:1": ("first", ["shared"], {}), "CL:2": ("second", ["shared"], {})}
    assert CellOntology("x", terms).resolve("shared") is None


def test_the_version_is_that_of_the_release(ontology):
    assert ontology.version == "2026-03-26"
    assert "CL:0000000" in ontology


def test_a_lineage_leads_from_the_root_to_the_term(ontology):
    path = ontology.lineage(CLASSICAL)
    assert path[0] == "CL:0000000"
    assert path[-1] == CLASSICAL
    assert "CL:0000576" in path
    assert all(ontology.ancestors(child)[parent] == 1 for parent, child in pairwise(path))


def test_synonyms_of_a_term_hold_the_names_of_the_field(ontology):
    assert "NK cell" in ontology.synonyms("CL:0000623")
    assert list(ontology.synonyms(CLASSICAL)) == sorted(ontology.synonyms(CLASSICAL))
