import csv
import gzip
import re
from importlib import resources

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gca_core.annotation.markers.database import COLUMNS, MarkerDatabase, symbol_aliases
from gca_core.annotation.markers.formats import parse_markers
from gca_core.annotation.markers.load import load_marker_database
from gca_core.errors import DataValidationError, GcaError, MarkerDatabaseError
from gca_core.knowledge.bundled.ontology import load_ontology

BUNDLED = resources.files("gca_core.annotation") / "data" / "markers.csv"
HEADER = "cell_type,gene_symbol,role\n"


@pytest.fixture(scope="module")
def rows():
    return list(csv.DictReader(BUNDLED.read_text().splitlines()))


def test_every_bundled_id_is_in_the_ontology_with_its_label(rows):
    ontology = load_ontology()
    assert {r["cell_type"] for r in rows if ontology.label(r["ontology_id"]) != r["cell_type"]} == set()


def test_bundled_rows_are_complete_and_claim_no_reference(rows):
    assert tuple(rows[0]) == COLUMNS
    assert {r["species"] for r in rows} == {"human", "mouse"}
    assert {r["evidence"] for r in rows} == {"curated"}
    assert {r["reference"] for r in rows} == {""}
    assert {r["role"] for r in rows} == {"positive", "negative"}
    human = [r["gene_symbol"] for r in rows if r["species"] == "human"]
    assert [gene for gene in human if not re.fullmatch(r"[A-Z][A-Z0-9-]*(orf\d+)?", gene)] == []


def test_no_gene_is_listed_twice_for_a_type(rows):
    keys = [(r["species"], r["ontology_id"], r["gene_symbol"]) for r in rows]
    assert len(keys) == len(set(keys))


def test_the_bundled_database_covers_the_main_tissues(database):
    assert len(database.types) >= 220
    assert len({tissue for t in database.types for tissue in t.tissues} - {"any"}) >= 25
    assert [t.label for t in database.types if len(t.positive) < 8] == []
    present = {t.ontology_id for t in database.types}
    assert {"CL:0002057", "CL:0002396", "CL:0000556", "CL:0000784", "CL:0000182", "CL:0000540", "CL:0002063"} <= present
    tissues = {tissue for t in database.types for tissue in t.tissues}
    assert {"blood", "pancreas", "liver", "kidney", "lung", "brain"} <= tissues


def test_every_type_has_a_parent_above_it_on_the_ontology(database):
    ontology = load_ontology()
    wrong = [t.label for t in database.types if t.parent_id not in ontology.ancestors(t.ontology_id)]
    assert wrong == []
    assert next(t for t in database.types if t.ontology_id == "CL:0002057").parent_id == "CL:0000576"


def test_the_main_mouse_types_are_there_under_mouse_symbols():
    mouse = load_marker_database(species="mouse")
    assert len(mouse.types) >= 100
    beta = mouse.get("CL:0000169")
    assert {"Ins1", "Ins2", "Iapp"} <= set(beta.positive)
    assert [gene for gene in mouse.genes if gene.isupper() and len(gene) > 3] == []


def test_no_positive_marker_is_an_interferon_response_gene(database):
    path = resources.files("gca_core.knowledge") / "data" / "hallmark.tsv.gz"
    table = csv.reader(gzip.decompress(path.read_bytes()).decode().splitlines(), delimiter="\t")
    sets = {row[0]: set(row[-1].split()) if len(row) == 3 else set(row[2:]) for row in table}
    response = next(genes for name, genes in sets.items() if "INTERFERON_ALPHA_RESPONSE" in name)
    assert len(response) > 50
    assert {g for t in database.types for g in t.positive} & response == set()


def test_aliases_lead_to_current_symbols_and_not_in_circles():
    aliases = symbol_aliases()
    assert aliases["IGJ"] == "JCHAIN"
    assert set(aliases) & set(aliases.values()) == set()


def test_specificity_falls_with_the_number_of_types(database):
    common = max(database.genes, key=lambda g: sum(g in t.positive for t in database.types))
    assert database.specificity("CD19") == pytest.approx(1.0)
    assert database.specificity(common) < 0.8


def test_a_table_with_names_alone_is_resolved_on_the_ontology():
    markers = parse_markers(HEADER + "NK cells,GNLY,\nNK cells,CD3D,negative\n")
    assert [(m.ontology_id, m.gene_symbol, m.role) for m in markers] == [
        ("CL:0000623", "GNLY", "positive"),
        ("CL:0000623", "CD3D", "negative"),
    ]


def test_a_tab_separated_file_is_read(tmp_path):
    path = tmp_path / "m.tsv"
    path.write_text("cell_type\tgene_symbol\nB cell\tCD19\nB cell\tMS4A1\n")
    database = load_marker_database(path)
    assert list(database.types[0].positive) == ["CD19", "MS4A1"]


def test_the_content_decides_the_hash(tmp_path):
    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    first.write_text(HEADER + "B cell,CD19,\n")
    second.write_text(HEADER + "B cell,MS4A1,\n")
    assert load_marker_database(first).content_hash != load_marker_database(second).content_hash


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "lacks the columns"),
        ("gene,label\nCD19,B cell\n", "lacks the columns cell_type, gene_symbol"),
        (HEADER + "granny smith,CD19,\n", "line 2: 'granny smith' is no Cell Ontology term"),
        (HEADER + "B cell,,\n", "line 2: gene_symbol"),
        (HEADER + "B cell,CD19,maybe\n", "line 2: role"),
        ("cell_type,gene_symbol,evidence_score\nB cell,CD19,7\n", "line 2: evidence_score"),
    ],
)
def test_faulty_tables_are_refused_with_the_line(text, match):
    with pytest.raises(MarkerDatabaseError, match=match):
        parse_markers(text)


def test_a_missing_file_no_text_and_no_rows_are_refused(tmp_path):
    with pytest.raises(DataValidationError, match="does not exist"):
        load_marker_database(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00cell_type")
    with pytest.raises(MarkerDatabaseError, match="UTF-8"):
        load_marker_database(tmp_path / "binary.csv")
    (tmp_path / "m.csv").write_text(HEADER + "B cell,CD19,\n")
    with pytest.raises(MarkerDatabaseError, match="no rows"):
        load_marker_database(tmp_path / "m.csv", species="mouse")


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_parsed_or_refused(text):
    try:
        parse_markers(text)
    except GcaError as error:
        assert str(error)


CELLS = st.sampled_from(["", "B cell", "NK", "nonsense", "CL:0000084", '"', "CD19", "1", "positive", "é"])


@settings(deadline=None)
@given(st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=6))
def test_any_rows_are_parsed_or_refused(table):
    text = HEADER + "".join(",".join(row) + "\n" for row in table)
    try:
        markers = parse_markers(text)
    except MarkerDatabaseError as error:
        assert "line" in str(error)
    else:
        assert all(m.ontology_id in load_ontology() and m.gene_symbol for m in markers)
        if markers:
            assert MarkerDatabase(markers, name="x", content_hash="y").n_markers == len(markers)
