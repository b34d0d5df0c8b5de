import json
import logging

import pytest
from typer.testing import CliRunner

from gca_core.annotation.markers import table_cache
from gca_core.annotation.markers.load import load_marker_database
from gca_core.annotation.markers.remote import assets_under
from gca_core.annotation.markers.table_cache import parsed_tables
from gca_core.cli.main import app

TABLE = "cell_type,gene_symbol\nB cell,MS4A1\nB cell,CD79A\n"
SETS = "B cell\tset\tMS4A1\tCD79A\nGranny cell\tset\tABC1\n"


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.setenv("GCA_ASSETS_HOME", str(tmp_path / "assets"))
    path = tmp_path / "markers.csv"
    path.write_text(TABLE)
    return path


def test_a_table_is_parsed_once(table):
    first, second = load_marker_database(table), load_marker_database(table)
    assert (first.from_cache, second.from_cache) == (False, True)
    assert (second.types, second.content_hash) == (first.types, first.content_hash)
    table.write_text(TABLE.replace("MS4A1", "CD19"))
    changed = load_marker_database(table)
    assert not changed.from_cache
    assert "CD19" in changed.genes


def test_what_is_left_out_of_a_table_is_said_each_time_it_is_used(table, tmp_path, caplog):
    sets, renamed = tmp_path / "sets.gmt", tmp_path / "renamed.gmt"
    for path in (sets, renamed):
        path.write_text(SETS)
    said = []
    for path in (sets, sets, renamed):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="gca_core"):
            said.append((load_marker_database(path).from_cache, caplog.messages))
    note = "1 of 2 cell types have no Cell Ontology term and are left out"
    assert said == [(False, [f"{sets}: {note}"]), (True, [f"{sets}: {note}"]), (True, [f"{renamed}: {note}"])]


def test_a_table_that_is_used_whole_has_nothing_to_say(table, caplog):
    with caplog.at_level(logging.WARNING, logger="gca_core"):
        assert [load_marker_database(table).from_cache for _ in range(2)] == [False, True]
    assert caplog.messages == []


def test_copies_of_another_reader_are_not_used(table, monkeypatch):
    load_marker_database(table)
    monkeypatch.setattr(table_cache, "READER_VERSION", table_cache.READER_VERSION + 1)
    assert not load_marker_database(table).from_cache
    assert load_marker_database(table).from_cache


def told(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_command_says_whether_a_table_was_read_from_its_copy(table):
    assert [json.loads(told("markers", "info", str(table)))["from_cache"] for _ in range(2)] == [False, True]


def test_the_commands_count_and_delete_parsed_tables_beside_the_answers(table, tmp_path):
    cache = ["--cache-dir", str(tmp_path / "cache")]
    other = tmp_path / "other.csv"
    other.write_text(TABLE.replace("MS4A1", "CD19"))
    load_marker_database(table)
    with assets_under(tmp_path / "cache"):
        for path in (table, other):
            load_marker_database(path)
        size = parsed_tables().size()[1]
    assert "parsed marker tables: 2 in 0.00 MB" in told("cache", "info", *cache)
    facts = json.loads(told("cache", "info", "--json", *cache))
    assert (facts["tables"], facts["table_bytes"], facts["answers"]) == (2, size, 0)
    assert "parsed marker tables" not in told("cache", "clear", "--yes", "--model", "openai:gpt-4o-mini", *cache)
    assert json.loads(told("cache", "info", "--json", *cache))["tables"] == 2
    assert "deleted 2 parsed marker tables" in told("cache", "clear", "--yes", *cache)
    facts = json.loads(told("cache", "info", "--json", *cache))
    assert (facts["tables"], facts["table_bytes"]) == (0, 0)
    assert parsed_tables().size()[0] == 1
    assert load_marker_database(table).from_cache


def test_nothing_is_deleted_unless_the_question_is_answered(table):
    load_marker_database(table)
    refused = CliRunner().invoke(app, ["cache", "clear"], input="n\n")
    assert refused.exit_code == 1
    assert "answers and parsed marker tables" in refused.stdout
    assert parsed_tables().size()[0] == 1
