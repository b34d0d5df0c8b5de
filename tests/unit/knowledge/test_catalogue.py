import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gca_core.errors import DataValidationError
from gca_core.knowledge.bundled.catalogue import (
    AMBIGUOUS,
    PROFILES,
    TABLES,
    Ambiguity,
    PerturbationCatalogue,
    PerturbationEntry,
    PerturbationType,
    load_catalogue,
    read_catalogue,
)
from gca_core.knowledge.bundled.files import BUNDLED
from gca_core.knowledge.bundled.footprints import load_footprints
from gca_core.knowledge.bundled.gene_sets import find_gene_set, known_symbols
from gca_core.knowledge.bundled.names import normalise_name
from gca_core.knowledge.bundled.ontology import load_ontology


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("IFN-β", "interferon beta"),
        ("IFNb", "interferon beta"),
        ("Interferon  Beta", "interferon beta"),
        ("IFN\u2011beta", "interferon beta"),
        ("TGFb1", "TGF-beta 1"),
        ("TGF-beta", "TGF-beta 1"),
        ("TGF-β1", "TGF-beta 1"),
        ("transforming growth factor beta 1", "TGF-beta 1"),
        ("TNF\u03b1", "tumor necrosis factor"),
        ("IFN λ1", "interferon lambda 1"),
        ("rapamycin", "sirolimus"),
        ("INCB018424", "ruxolitinib"),
        ("recombinant human IL-2, 10 ng/ml", "interleukin 2"),
        ("rhIL-6", "interleukin 6"),
        ("Dexamethasone 1 \u00b5M", "dexamethasone"),
        ("Quizartinib (AC220)", "quizartinib"),
        ("Ganetespib (STA-9090)", "ganetespib"),
        ("imatinib mesylate", "imatinib"),
        ("IL-1Ra", "interleukin 1 receptor antagonist"),
        ("LT-alpha1-beta2", "lymphotoxin alpha1 beta2"),
        ("IL-17E", "interleukin 25"),
        ("1,25(OH)2D3", "calcitriol"),
    ],
)
def test_spellings_of_a_perturbation_meet(text: str, name: str) -> None:
    entry = load_catalogue().resolve(text)
    assert entry.name == name


@pytest.mark.parametrize(
    "text", ["interferon", "interferon betta", "", "IL", "NK", "beta", "DOX", "IL-28", "IL-6 (TNF)", "10 ng/ml", "()"]
)
def test_what_is_not_one_name_is_not_resolved(text: str) -> None:
    assert load_catalogue().resolve(text) is None


@given(st.text(max_size=30))
@settings(max_examples=40, deadline=None)
def test_any_text_gives_an_entry_or_nothing(text: str) -> None:
    entry = load_catalogue().resolve(text)
    assert entry is None or entry.name in load_catalogue().entries


def test_suggestions_name_the_nearest_entry_first() -> None:
    catalogue = load_catalogue()
    assert catalogue.suggest("interferon betta")[0] == "interferon beta"
    assert catalogue.suggest("dexametason")[0] == "dexamethasone"
    assert catalogue.suggest("") == []


def test_every_expected_pathway_and_footprint_is_bundled() -> None:
    footprints = load_footprints()
    for entry in load_catalogue().entries.values():
        assert [p.name for p in entry.pathways if find_gene_set(p.name) is None] == [], entry.name
        assert [p.name for p in entry.footprints if p.name not in footprints] == [], entry.name


def test_every_gene_is_a_symbol_of_the_bundled_sets() -> None:
    symbols = known_symbols()
    unknown = {
        (entry.name, gene)
        for entry in load_catalogue().entries.values()
        for gene in (*entry.ligands, *(g.gene for g in (*entry.targets, *entry.response)))
        if gene not in symbols
    }
    assert unknown == set()


def test_every_protein_names_the_genes_that_encode_it() -> None:
    kinds = {PerturbationType.CYTOKINE, PerturbationType.CHEMOKINE, PerturbationType.GROWTH_FACTOR}
    assert [e.name for e in load_catalogue().entries.values() if e.type in kinds and not e.ligands] == []


def test_an_inhibitor_switches_its_first_target_off() -> None:
    wrong = [
        entry.name
        for entry in load_catalogue().entries.values()
        if re.search(r"\b(inhibitor|antagonist|blocker|degrader)$", entry.family)
        and entry.targets
        and entry.targets[0].direction == "up"
        and not any(t.gene == "CRBN" for t in entry.targets)
    ]
    assert wrong == []


def test_an_agonist_switches_its_first_target_on() -> None:
    agonists = [e for e in load_catalogue().entries.values() if re.search(r"\bagonist$", e.family)]
    assert len(agonists) > 10
    assert [e.name for e in agonists if e.targets[0].direction == "down"] == []


def test_a_target_goes_one_way_only() -> None:
    for entry in load_catalogue().entries.values():
        for genes in (entry.targets, entry.response):
            assert max(Counter(g.gene for g in genes).values(), default=1) == 1, entry.name


def test_ruxolitinib_inhibits_the_janus_kinases() -> None:
    entry = load_catalogue().get("ruxolitinib")
    assert {(t.gene, t.direction) for t in entry.targets} == {("JAK1", "down"), ("JAK2", "down")}


def test_the_catalogue_covers_proteins_and_drugs() -> None:
    types = Counter(entry.type.value for entry in load_catalogue().entries.values())
    assert types["cytokine"] + types["growth_factor"] + types["chemokine"] >= 150
    assert types["drug"] >= 150
    assert types["stimulus"] >= 20


def test_no_reference_is_invented() -> None:
    entries = load_catalogue().entries.values()
    assert {entry.evidence for entry in entries} == {"curated"}
    assert [entry.name for entry in entries if entry.references] == []


def test_an_ambiguous_name_is_reported_whether_or_not_convention_settles_it() -> None:
    catalogue = load_catalogue()
    settled, open_one = catalogue.ambiguity("TGF-beta"), catalogue.ambiguity("DOX")
    assert settled.default == "TGF-beta 1"
    assert "TGF-beta 3" in settled.meanings
    assert open_one.default is None
    assert catalogue.ambiguity("TGF-beta 1") is None
    assert catalogue.ambiguity("interferon beta") is None


def test_no_entry_hides_an_ambiguity_of_its_own_synonyms() -> None:
    """A name is either a synonym of one entry, or listed as ambiguous; only an entry's own name may be both."""
    catalogue = load_catalogue()
    both = [
        name
        for entry in catalogue.entries.values()
        for name in entry.synonyms
        if catalogue.ambiguity(name) and normalise_name(name) != normalise_name(entry.name)
    ]
    assert both == []


def test_a_cell_type_is_a_perturbation_only_where_that_is_said_to_be_ambiguous() -> None:
    catalogue, ontology = load_catalogue(), load_ontology()
    names = {
        name
        for identifier in ontology.descendants("CL:0000000")
        for name in (ontology.label(identifier), *ontology.synonyms(identifier))
        if normalise_name(name) in catalogue.keys
    }
    assert [name for name in names if catalogue.ambiguity(name) is None] == []


def test_a_gene_symbol_is_a_synonym_of_the_protein_it_encodes_alone() -> None:
    """Some abbreviations of substances are symbols as well; those are listed here."""
    shared, symbols = {"LPA", "SAG", "CTGF", "TNFSF6", "IFNA13"}, known_symbols()
    wrong = [
        (entry.name, name)
        for entry in load_catalogue().entries.values()
        for name in (entry.name, *entry.synonyms)
        if name.upper() in symbols and name.upper() not in shared and name.upper() not in entry.ligands
    ]
    assert wrong == []


def test_meanings_that_the_catalogue_knows_are_written_as_its_names() -> None:
    catalogue = load_catalogue()
    for ambiguity in catalogue.ambiguities.values():
        for meaning in ambiguity.meanings:
            assert meaning in catalogue.entries or catalogue.resolve(meaning) is None, (ambiguity.name, meaning)


def test_a_profile_is_shared_by_its_entries() -> None:
    catalogue = load_catalogue()
    first, second = catalogue.get("dexamethasone"), catalogue.get("budesonide")
    assert first.response == second.response
    assert first.profile == second.profile == "glucocorticoid"


def test_entries_are_found_by_what_they_act_on() -> None:
    acting = {entry.name: direction for entry, direction in load_catalogue().acting_on("IFNAR1")}
    assert acting["interferon beta"] == "up"
    assert acting["anifrolumab"] == "down"


@pytest.mark.parametrize("default", ["nobody", None])
def test_what_contradicts_itself_is_refused(default: str | None) -> None:
    a, b = (PerturbationEntry(name=name, type="drug", family="x", synonyms=("shared-name",)) for name in ("a", "b"))
    with pytest.raises(DataValidationError, match="shared-name"):
        PerturbationCatalogue([a, b], version="1")
    with pytest.raises(DataValidationError, match="'a'"):
        PerturbationCatalogue([a], version="1", ambiguities=[Ambiguity(name="a", default=default)])


def test_a_table_that_names_an_unknown_profile_is_refused(tmp_path) -> None:
    for file in (*TABLES, PROFILES, AMBIGUOUS):
        (tmp_path / file).write_text((BUNDLED / file).read_text(encoding="utf-8"), encoding="utf-8")
    path = tmp_path / TABLES[1]
    assert len(read_catalogue(tmp_path)) == len(load_catalogue())
    lines = path.read_text(encoding="utf-8").splitlines()
    row = lines[1].split("\t")
    row[6] = "no such profile"
    path.write_text("\n".join([lines[0], "\t".join(row), *lines[2:]]) + "\n", encoding="utf-8")
    with pytest.raises(DataValidationError, match="no such profile"):
        read_catalogue(tmp_path)


def test_names_are_normalised_without_losing_digits() -> None:
    assert normalise_name("IL-1β") == "il1beta"
    assert normalise_name("IL-10") != normalise_name("IL-1")
