from concurrent.futures import ThreadPoolExecutor

import pytest

from gca_core.annotation import parsed_tables
from gca_core.annotation.loaders import load_markers
from gca_core.annotation.parsed_tables import clear_tables, parsed_folder, tables_info

TABLE = "cell_type,gene_symbol\nB cell,MS4A1\nB cell,CD79A\n"


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.setenv("GCA_ASSETS_HOME", str(tmp_path / "assets"))
    path = tmp_path / "markers.csv"
    path.write_text(TABLE)
    return path


def test_a_table_is_parsed_once(table):
    first, second = load_markers(table), load_markers(table)
    assert (first.from_cache, second.from_cache) == (False, True)
    assert (second.types, second.content_hash) == (first.types, first.content_hash)
    table.write_text(TABLE.replace("MS4A1", "CD19"))
    changed = load_markers(table)
    assert not changed.from_cache
    assert "CD19" in changed.genes


@pytest.mark.parametrize("spoil", ["", "{", '{"rows": []}', None])
def test_a_damaged_copy_counts_as_absent_and_is_written_anew(table, spoil):
    first = load_markers(table)
    (copy,) = parsed_folder().glob("*.json")
    copy.write_text(copy.read_text().replace("MS4A1", "CD3E") if spoil is None else spoil)
    again = load_markers(table)
    assert not again.from_cache
    assert again.types == first.types
    assert load_markers(table).from_cache


def test_copies_of_another_reader_are_not_used(table, monkeypatch):
    load_markers(table)
    monkeypatch.setattr(parsed_tables, "READER_VERSION", parsed_tables.READER_VERSION + 1)
    assert not load_markers(table).from_cache
    assert load_markers(table).from_cache


def test_many_writers_share_a_copy(table):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: load_markers(table), range(24)))
    assert all(database.types == found[0].types for database in found)
    assert load_markers(table).from_cache
    assert [path.suffix for path in parsed_folder().iterdir()] == [".json"]


def test_a_folder_that_cannot_be_written_to_is_no_reason_to_fail(table, tmp_path):
    (tmp_path / "assets").write_text("in the way")
    assert not load_markers(table).from_cache
    assert not load_markers(table).from_cache


def test_copies_are_counted_and_cleared(table):
    load_markers(table)
    count, size = tables_info()
    assert count == 1
    assert size > len(TABLE)
    assert clear_tables() == 1
    assert tables_info() == (0, 0)
