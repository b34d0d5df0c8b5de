from __future__ import annotations

import pytest

from gca_core.errors import DataValidationError
from gca_core.knowledge.catalogue import load_catalogue, normalise_name, parse_catalogue
from gca_core.knowledge.footprints import load_footprints
from gca_core.knowledge.gene_sets import find_gene_set


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("IFN-β", "interferon beta"),
        ("IFNb", "interferon beta"),
        ("Interferon  Beta", "interferon beta"),
        ("IFN\u2011beta", "interferon beta"),
        ("TGFb1", "TGF-beta 1"),
        ("TGF-beta", "TGF-beta 1"),
        ("transforming growth factor beta 1", "TGF-beta 1"),
        ("TNF\u03b1", "tumor necrosis factor"),
        ("IFN λ1", "interferon lambda 1"),
        ("rapamycin", "sirolimus"),
    ],
)
def test_spellings_of_a_perturbation_meet(text: str, name: str) -> None:
    entry = load_catalogue().resolve(text)
    assert entry is not None
    assert entry.name == name


@pytest.mark.parametrize("text", ["interferon", "interferon betta", "", "IL", "NK", "beta"])
def test_what_is_not_a_name_is_not_resolved(text: str) -> None:
    assert load_catalogue().resolve(text) is None


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


def test_an_inhibitor_switches_its_target_off() -> None:
    entry = load_catalogue().get("ruxolitinib")
    assert entry is not None
    assert {(t.gene, t.direction) for t in entry.targets} == {("JAK1", "down"), ("JAK2", "down")}


def test_the_catalogue_covers_cytokines_and_drugs() -> None:
    types = [entry.type.value for entry in load_catalogue().entries.values()]
    assert sum(t in {"cytokine", "growth_factor", "chemokine"} for t in types) >= 40
    assert types.count("drug") >= 30


def test_two_entries_may_not_claim_one_name() -> None:
    entry = '{"name": "%s", "type": "drug", "family": "x", "synonyms": ["shared-name"]}'
    text = f'{{"version": "1", "entries": [{entry % "a"}, {entry % "b"}]}}'
    with pytest.raises(DataValidationError, match="shared-name"):
        parse_catalogue(text)


@pytest.mark.parametrize("text", ["{", "[]", '{"version": "1", "entries": [{"name": "a", "targets": ["JAK1"]}]}'])
def test_a_broken_catalogue_is_refused(text: str) -> None:
    with pytest.raises(DataValidationError, match="not valid"):
        parse_catalogue(text)


def test_names_are_normalised_without_losing_digits() -> None:
    assert normalise_name("IL-1β") == "il1beta"
    assert normalise_name("IL-10") != normalise_name("IL-1")
