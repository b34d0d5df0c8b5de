import zipfile

import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from gca_core.annotation.markers.formats import read_markers
from gca_core.annotation.markers.load import load_marker_database
from gca_core.cli.main import app
from gca_core.errors import GcaError, MarkerDatabaseError
from gca_core.knowledge.bundled.ontology import CellOntology

PANGLAO = (
    "species\tofficial gene symbol\tcell type\tcanonical marker\torgan\n"
    "Mm Hs\tCTRB1\tAcinar cells\t1\tPancreas\n"
    "Hs\tIGJ\tPlasma cells\t1\tImmune system\n"
    "Mm\tREG3B\tAcinar cells\t\tPancreas\n"
    "Hs\tABC1\tGranny cells\t\t\n"
)
CELLMARKER = (
    "species,tissue_class,cell_type,cell_name,cellontology_id,marker,Symbol,marker_source,PMID\n"
    "Human,Blood,Normal cell,B cell,CL_0000236,CD20,MS4A1,Review,123\n"
    "Human,Blood,Cancer cell,B cell,CL_0000236,CD5,CD5,Review,124\n"
    "Mouse,Blood,Normal cell,B cell,CL_0000236,Cd19,Cd19,Review,125\n"
)


def write_xlsx(path, rows):
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    book.save(path)
    return path


def test_panglaodb_is_read_by_species_with_current_symbols():
    human = read_markers(PANGLAO.encode(), name="p.tsv").markers
    assert [(m.ontology_id, m.gene_symbol) for m in human] == [("CL:0000622", "CTRB1"), ("CL:0000786", "JCHAIN")]
    mouse = read_markers(PANGLAO.encode(), name="p.tsv", species="mouse").markers
    assert [m.gene_symbol for m in mouse] == ["Ctrb1", "Reg3b"]


def test_cellmarker_keeps_its_references_and_leaves_cancer_out():
    found = read_markers(CELLMARKER.encode(), name="c.csv").markers
    assert [(m.ontology_id, m.gene_symbol, m.reference) for m in found] == [("CL:0000236", "MS4A1", "PMID:123")]


def test_sctype_has_both_roles(tmp_path):
    header = ["tissueType", "cellName", "geneSymbolmore1", "geneSymbolmore2", "shortName"]
    path = write_xlsx(tmp_path / "s.xlsx", [header, ["Immune system", "B cells", "CD19, MS4A1", "CD3D", "B"]])
    found = load_marker_database(path)
    assert list(found.types[0].positive) == ["CD19", "MS4A1"]
    assert list(found.types[0].negative) == ["CD3D"]


def test_missing_cells_of_a_sheet_do_not_shift_the_others(tmp_path):
    header = ["tissueType", "cellName", "geneSymbolmore1", "geneSymbolmore2"]
    path = write_xlsx(
        tmp_path / "s.xlsx", [header, [None, "B cells", "CD19", None], ["Blood", "NK cells", None, "CD3D"]]
    )
    found = load_marker_database(path)
    assert [(t.ontology_id, list(t.positive), list(t.negative)) for t in found.types] == [
        ("CL:0000236", ["CD19"], []),
        ("CL:0000623", [], ["CD3D"]),
    ]


def test_the_celltypist_encyclopedia_brings_its_ids(tmp_path):
    header = [
        "High-hierarchy cell types",
        "Low-hierarchy cell types",
        "Description",
        "Cell Ontology ID",
        "Curated markers",
    ]
    path = write_xlsx(tmp_path / "e.xlsx", [header, ["B cells", "Odd name", "text", "CL:0000788", "IGHD, TCL1A"]])
    found = load_marker_database(path)
    assert [(t.ontology_id, list(t.positive)) for t in found.types] == [("CL:0000788", ["IGHD", "TCL1A"])]


def test_gmt_sets_are_cell_types(tmp_path):
    path = tmp_path / "m.gmt"
    path.write_text("B_cell\tna\tCD19\tMS4A1\nunheard_of\tna\tCD3D\n")
    assert [(t.label, list(t.positive)) for t in load_marker_database(path).types] == [("B cell", ["CD19", "MS4A1"])]


@pytest.mark.parametrize(
    ("name", "data", "match"),
    [
        ("x.csv", b"a,b\n1,2\n", "has the columns a, b; expected those of one known format"),
        ("x.csv", b"", "has the columns none"),
        ("x.csv", b"\xff\xfe", "neither xlsx nor UTF-8"),
        ("x.xlsx", b"PK\x03\x04broken", "can't be read as xlsx"),
        ("x.gmt", b"B cell\tna\n", "line 1 of 'x.gmt' has no genes"),
        ("x.gmt", b"granny\tna\tCD19\n", "no human markers"),
    ],
)
def test_what_is_no_marker_table_is_refused(name, data, match):
    with pytest.raises(MarkerDatabaseError, match=match):
        read_markers(data, name=name)


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda text: text.replace("<worksheet", '<!DOCTYPE a [<!ENTITY b "c">]><worksheet', 1), "document type"),
        (lambda text: text.replace('r="C2"', 'r="XFD2"'), "more than 256 columns"),
        (lambda text: text + " " * 65_000_000, "unpacks to more than 64,000,000 bytes"),
        (lambda text: text.replace("</row>", ""), "can't be read as xlsx"),
    ],
)
def test_a_sheet_that_unfolds_or_is_broken_is_refused(spoil, match, tmp_path):
    whole = write_xlsx(
        tmp_path / "whole.xlsx", [["tissueType", "cellName", "geneSymbolmore1"], ["any", "B cells", "CD19"]]
    )
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(tmp_path / "x.xlsx", "w", zipfile.ZIP_DEFLATED) as target:
        for part in source.namelist():
            text = source.read(part).decode()
            target.writestr(part, spoil(text) if part == "xl/worksheets/sheet1.xml" else text)
    with pytest.raises(MarkerDatabaseError, match=match):
        load_marker_database(tmp_path / "x.xlsx")


@settings(deadline=None, max_examples=60)
@given(
    st.one_of(st.binary(max_size=80), st.binary(max_size=60).map(lambda b: b"PK" + b)),
    st.sampled_from(["a.csv", "a.gmt"]),
)
def test_any_bytes_are_read_or_refused(data, name):
    try:
        assert read_markers(data, name=name).markers
    except GcaError as error:
        assert str(error)


def test_the_commands_build_list_and_describe(tmp_path):
    run = CliRunner().invoke
    built = tmp_path / "m.csv"
    assert run(app, ["markers", "build", "-o", str(built)]).exit_code == 0
    listed = run(app, ["markers", "list", str(built), "--tissue", "pancreas"])
    assert "CL:0000169\ttype B pancreatic cell" in listed.stdout
    assert "hepatocyte" not in listed.stdout
    assert '"species": "mouse"' in run(app, ["markers", "info", str(built), "--species", "mouse"]).stdout
    assert "363 human cell types" in run(app, ["markers", "validate", str(built)]).stdout


def test_close_names_are_looked_up_for_the_faulty_rows_that_are_named_alone(monkeypatch):
    asked = []
    monkeypatch.setattr(CellOntology, "suggest", lambda _, name: asked.append(name) or [])
    rows = "".join(f"strange cell number {i},MS4A1\n" for i in range(2000))
    with pytest.raises(MarkerDatabaseError, match=r"strange cell number 4'.* and 1995 more"):
        read_markers(f"cell_type,gene_symbol\n{rows}".encode(), name="a.csv")
    assert len(asked) == 5
