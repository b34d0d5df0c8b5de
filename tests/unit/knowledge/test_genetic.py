import pytest
from hypothesis import given
from hypothesis import strategies as st

from gca_core.knowledge.bundled.catalogue import PerturbationType, load_catalogue
from gca_core.knowledge.bundled.genetic import genetic, parse_genetic, resolve_perturbation


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("CRISPRi STAT1", "STAT1 CRISPRi"),
        ("STAT1 CRISPRi", "STAT1 CRISPRi"),
        ("CRISPR interference of STAT1", "STAT1 CRISPRi"),
        ("CRISPRa against IL2RA", "IL2RA CRISPRa"),
        ("STAT1 knockout", "STAT1 knockout"),
        ("knock-out of STAT1", "STAT1 knockout"),
        ("STAT1-KO", "STAT1 knockout"),
        ("STAT1-/-", "STAT1 knockout"),
        ("STAT1 deficient", "STAT1 knockout"),
        ("loss of TP53", "TP53 knockout"),
        ("sgSTAT1", "STAT1 knockout"),
        ("sgRNA against the STAT1 gene", None),
        ("siRNA against MYC", "MYC knockdown"),
        ("siMYC", "MYC knockdown"),
        ("shJAK2", "JAK2 knockdown"),
        ("MYC silencing", "MYC knockdown"),
        ("jak2 knockdown", "JAK2 knockdown"),
        ("overexpression of FOXP3", "FOXP3 overexpression"),
        ("FOXP3 OE", "FOXP3 overexpression"),
        ("HLA-A knockout", "HLA-A knockout"),
        ("STAT1", None),
        ("knockout", None),
        ("cell knockout", None),
        ("knockout of the cells", None),
        ("NOTAGENE1 knockout", None),
        ("singlet", None),
        ("shoulder", None),
        ("", None),
    ],
)
def test_what_is_done_to_a_gene_is_read(text: str, name: str | None) -> None:
    entry = genetic(text, load_catalogue())
    assert (entry.name if entry else None) == name


def test_the_gene_goes_the_way_of_the_perturbation() -> None:
    catalogue = load_catalogue()
    lowered, raised = genetic("JAK1 CRISPRi", catalogue), genetic("JAK1 overexpression", catalogue)
    assert lowered.type is PerturbationType.GENETIC
    assert [(t.gene, t.direction) for t in lowered.targets] == [("JAK1", "down")]
    assert [(t.gene, t.direction) for t in lowered.response] == [("JAK1", "down")]
    assert [(t.gene, t.direction) for t in raised.targets] == [("JAK1", "up")]


def test_a_knockout_promises_no_transcript_and_without_what_acts_on_the_gene_no_pathway() -> None:
    assert genetic("STAT1 knockout", load_catalogue()).response == ()
    assert genetic("TTN knockout", load_catalogue()).pathways == ()


def test_pathways_come_from_the_entries_that_act_on_the_gene() -> None:
    entry = genetic("IFNAR1 knockout", load_catalogue())
    assert ("HALLMARK_INTERFERON_ALPHA_RESPONSE", "down") in {(p.name, p.direction) for p in entry.pathways}
    assert ("JAK-STAT", "down") in {(p.name, p.direction) for p in entry.footprints}


def test_a_name_of_the_catalogue_wins_over_the_rules() -> None:
    catalogue = load_catalogue()
    for text, name in (("IFN-beta", "interferon beta"), ("JAK2 knockout", "JAK2 knockout")):
        entry = resolve_perturbation(text, catalogue)
        assert entry.name == name
    assert resolve_perturbation("unobtainium", catalogue) is None


@given(st.text(max_size=40))
def test_any_text_is_read_or_left(text: str) -> None:
    parsed = parse_genetic(text, lambda: frozenset({"STAT1"}))
    assert parsed is None or parsed[0] == "STAT1"
