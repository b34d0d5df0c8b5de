import csv
from io import StringIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gca_core.annotation.markers.delimited import decode_table
from gca_core.annotation.markers.gene_lists import (
    RESULT_COLUMNS,
    parse_gene_lists,
    render_gene_lists,
    split_genes,
)
from gca_core.annotation.models import UNKNOWN
from gca_core.errors import DataValidationError
from tests.helpers.annotations import make_annotation

SYMBOL = st.from_regex(r"[A-Z][A-Z0-9]{1,6}(-[A-Z0-9]{1,2})?", fullmatch=True)
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


def as_csv(rows, delimiter=",", quoting=csv.QUOTE_MINIMAL) -> str:
    buffer = StringIO()
    csv.writer(buffer, delimiter=delimiter, quoting=quoting).writerows(rows)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("text", "genes"),
    [
        ("MS4A1, CD79A,,CD79B ,", ("MS4A1", "CD79A", "CD79B")),
        ("MS4A1;CD79A; CD79B", ("MS4A1", "CD79A", "CD79B")),
        ("MS4A1|CD79A", ("MS4A1", "CD79A")),
        ("MS4A1 CD79A\tCD79B\nCD19", ("MS4A1", "CD79A", "CD79B", "CD19")),
        ("MS4A1,\nCD79A", ("MS4A1", "CD79A")),
        ("['HLA-DRA', 'CD79A']", ("HLA-DRA", "CD79A")),
        ('["NKX2-1","C1orf56"]', ("NKX2-1", "C1orf56")),
        ("  ", ()),
        ("[]", ()),
    ],
)
def test_genes_are_parted_by_the_one_separator_that_is_used(text, genes):
    assert split_genes(text) == genes


@pytest.mark.parametrize("text", ["A,B;C", "A|B,C", "A;B|C"])
def test_several_separators_are_refused(text):
    with pytest.raises(DataValidationError, match="more than one of"):
        split_genes(text)


@settings(max_examples=40)
@given(st.lists(SYMBOL, min_size=1, max_size=30), st.sampled_from([",", ";", "|", ", ", " ; ", " ", "\n"]))
def test_joined_genes_are_found_again(genes, separator):
    assert split_genes(separator.join(genes)) == tuple(genes)


def test_line_and_column_of_a_faulty_cell_are_named():
    with pytest.raises(DataValidationError, match=r"line 3, column 'genes': .*'A,B;C'"):
        parse_gene_lists('cluster,genes\n1,"A,B"\n2,"A,B;C"\n')


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "the table is empty"),
        ("\n\n", "the table is empty"),
        ("cluster,markers\n", "no rows"),
        (
            "cluster,markers\n1,MS4A1,CD79A\n",
            r"line 2 has 3 cells.*2 columns; put quotes .*'markers'",
        ),
        ("cluster,markers\n1\n", "line 2 has 1 cells"),
        ("cell,markers\n1,A\n", r"no column has a usual name for clusters; found 'cell', 'markers'.*cluster_column"),
        ("cluster,list\n1,A\n", r"no column has a usual name for marker genes.*markers_column"),
        ("cluster,markers,markers\n1,A,B\n", "the column 'markers' occurs 2 times"),
        ('cluster,markers\n1,"A\n', "line 2 can't be read"),
        ('cluster,markers\n1,"A"B\n', "line 2 can't be read"),
    ],
)
def test_what_is_no_table_of_lists_is_refused(text, match):
    with pytest.raises(DataValidationError, match=match):
        parse_gene_lists(text)


def test_named_columns_win_and_have_to_be_there():
    text = "cluster,name,markers,top\n1,a,A,B\n"
    table = parse_gene_lists(text, cluster_column="name", markers_column="top")
    assert (table.clusters, table.genes) == (("a",), (("B",),))
    with pytest.raises(DataValidationError, match=r"no column 'leiden'; found 'cluster', 'name'"):
        parse_gene_lists(text, cluster_column="leiden")
    with pytest.raises(DataValidationError, match="named for clusters and for marker genes"):
        parse_gene_lists(text, cluster_column="top", markers_column="top")


@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
@settings(max_examples=25)
@given(
    rows=st.lists(st.tuples(TEXT, st.lists(SYMBOL, max_size=5), TEXT), min_size=1, max_size=6),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    mark=st.sampled_from(["", "\ufeff"]),
)
def test_any_table_is_read_as_it_was_written(delimiter, rows, quoting, mark):
    cells = [("cluster", "genes", "note"), *((name, ",".join(genes), note) for name, genes, note in rows)]
    table = parse_gene_lists(mark + as_csv(cells, delimiter, quoting))
    assert table.header == cells[0]
    assert table.clusters == tuple(name.strip() for name, _, _ in rows)
    assert table.genes == tuple(tuple(genes) for _, genes, _ in rows)
    assert [row[2] for row in table.rows] == [note for _, _, note in rows]


@settings(max_examples=60)
@given(st.sampled_from(["", "cluster,markers\n", "cluster\tmarkers\r\n"]), st.text(max_size=100))
def test_any_text_is_read_or_refused(header, text):
    try:
        table = parse_gene_lists(header + text)
    except DataValidationError:
        return
    assert len(table.clusters) == len(table.genes) == len(table.rows) > 0


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_byte_order_marks_are_understood(encoding):
    text = "cluster,markers\nZellen ü,MS4A1\n"
    assert decode_table(text.encode(encoding), name="x.csv") == text


def test_other_encodings_are_refused():
    with pytest.raises(DataValidationError, match=r"'x.csv' is not UTF-8 text: byte 8"):
        decode_table("Zellen: ü".encode("latin-1"), name="x.csv")


def test_rows_come_back_in_their_order_with_the_results_behind_them():
    table = parse_gene_lists('cluster,markers,note\nb,"A,B",1\na,,=HYPERLINK("x")\nb,C,2\n')
    found = [make_annotation("b", "B cell"), make_annotation("a", UNKNOWN), make_annotation("b", "T cell")]
    rows = list(csv.reader(StringIO(render_gene_lists(table, found))))
    assert rows[0] == ["cluster", "markers", "note", *RESULT_COLUMNS]
    assert [row[:4] for row in rows[1:]] == [
        ["b", "A,B", "1", "B cell"],
        ["a", "", '\'=HYPERLINK("x")', UNKNOWN],
        ["b", "C", "2", "T cell"],
    ]


def test_columns_of_the_input_never_hide_the_results():
    table = parse_gene_lists("cluster,markers,label,input_label\n1,A,old,older\n")
    rows = list(csv.DictReader(StringIO(render_gene_lists(table, [make_annotation("1", "B cell")]))))
    assert rows[0]["label"] == "B cell"
    assert (rows[0]["input_input_label"], rows[0]["input_label"]) == ("old", "older")


def test_a_row_a_gene_is_noticed():
    long = "cluster,gene\n" + "".join(f"{i % 2},G{i}\n" for i in range(10))
    assert parse_gene_lists(long).looks_long
    assert not parse_gene_lists("cluster,gene\n1,A\n2,B\n").looks_long
