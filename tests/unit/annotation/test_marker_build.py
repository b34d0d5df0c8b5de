import csv
from importlib import resources

import pytest

from gca_core.annotation.markers.build import (
    SOURCE_COLUMNS,
    build_marker_table,
    check_source,
    known_symbols,
    mouse_symbol,
    parent_type,
    parse_source,
)
from gca_core.annotation.markers.formats import parse_markers
from gca_core.errors import MarkerDatabaseError
from gca_core.knowledge.bundled.ontology import load_ontology

GENES = "CD19 MS4A1", "CD79A CD79B PAX5 BLK CD22 FCRLA VPREB3"


def line(
    identifier: str = "CL:0000236",
    name: str = "B cell",
    tissues: str = "blood",
    defining: str = GENES[0],
    supporting: str = GENES[1],
    against: str = "CD3D CD3E",
    mouse: str = "-",
) -> str:
    return "\t".join((identifier, name, tissues, defining, supporting, against, mouse))


def table(*lines: str) -> str:
    return "\n".join(("\t".join(SOURCE_COLUMNS), *lines)) + "\n"


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


def test_the_bundled_table_is_what_the_build_gives():
    folder = resources.files("gca_core.annotation") / "data"
    assert build_marker_table() == (folder / "markers.csv").read_text(encoding="utf-8")


def test_a_line_becomes_one_row_per_gene_with_role_score_and_parent():
    found = rows(build_marker_table(table(line())))
    assert [r["gene_symbol"] for r in found] == (" ".join(GENES) + " CD3D CD3E").split()
    assert {(r["role"], r["evidence_score"]) for r in found} == {
        ("positive", "1.0"),
        ("positive", "0.6"),
        ("negative", "0.8"),
    }
    assert {(r["evidence"], r["reference"], r["species"]) for r in found} == {("curated", "", "human")}
    assert {r["parent_id"] for r in found} == {"CL:0000945"}
    assert len(parse_markers(build_marker_table(table(line())))) == len(found)


def test_the_parent_is_the_nearest_type_that_has_markers():
    ontology = load_ontology()
    held = frozenset({"CL:0000236", "CL:0000738"})
    assert parent_type("CL:0000787", held, ontology) == "CL:0000236"
    assert parent_type("CL:0000787", held - {"CL:0000236"}, ontology) == "CL:0000738"
    assert parent_type("CL:0000000", held, ontology) == ""


def test_mouse_rows_take_mouse_symbols_and_leave_out_genes_without_one():
    spelled = {"CD79B": "", "CD22": "Siglec2"}
    text = build_marker_table(table(line(mouse="Ly6d Cd19")), mouse_symbols=spelled)
    mouse = [r["gene_symbol"] for r in rows(text) if r["species"] == "mouse"]
    assert mouse == ["Cd19", "Ms4a1", "Cd79a", "Pax5", "Blk", "Siglec2", "Fcrla", "Vpreb3", "Ly6d", "Cd3d", "Cd3e"]


def test_mouse_symbols_follow_the_letters():
    assert mouse_symbol("HLA-DRA", {"HLA-DRA": ""}) == ""
    assert mouse_symbol("NKX2-1", {}) == "Nkx2-1"


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"identifier": "CL:9999999"}, "is no term"),
        ({"name": "B-cell"}, "is labelled 'B cell' there"),
        ({"tissues": " ; "}, "no tissue"),
        ({"supporting": "CD79A"}, "3 positive markers; expected at least 8"),
        ({"defining": "", "supporting": " ".join(GENES)}, "no defining marker"),
        ({"supporting": GENES[1] + " CD19"}, "CD19 is listed twice"),
        ({"against": "CD19"}, "CD19 is listed twice"),
        ({"supporting": GENES[1] + " NOTAGENE1"}, "NOTAGENE1 is no gene symbol"),
        ({"supporting": GENES[1] + " IGJ"}, "IGJ is now called JCHAIN"),
        ({"supporting": GENES[1] + " IFIT3"}, "IFIT3 is induced by interferon"),
        ({"mouse": "ly6d"}, "ly6d is no mouse symbol"),
    ],
)
def test_a_faulty_line_is_refused_with_its_fault(changed, fault):
    with pytest.raises(MarkerDatabaseError, match=f"B cell.*{fault}|B-cell.*{fault}"):
        build_marker_table(table(line(**changed)))


def test_types_that_contradict_those_above_them_are_refused():
    memory = line("CL:0000787", "memory B cell", defining="CD27 AIM2", against="CD19")
    with pytest.raises(MarkerDatabaseError, match="CD19 speaks for B cell and against memory B cell"):
        build_marker_table(table(line(), memory))


def test_a_type_that_is_listed_twice_is_refused():
    with pytest.raises(MarkerDatabaseError, match="CL:0000236 is listed twice"):
        build_marker_table(table(line(), line()))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "has the columns none"),
        ("a\tb\n", "has the columns a, b"),
        (table("CL:0000236\tB cell"), "line 2 of the source table has 2 fields"),
    ],
)
def test_a_source_that_is_no_source_is_refused(text, fault):
    with pytest.raises(MarkerDatabaseError, match=fault):
        parse_source(text)


def test_symbols_can_be_given():
    types = parse_source(table(line()))
    assert check_source(types, load_ontology(), known_symbols()) == []
    assert len(check_source(types, load_ontology(), frozenset())) == len((" ".join(GENES) + " CD3D CD3E").split())
