import csv
import json
import os
import signal
import subprocess
import sys
from functools import partial
from io import StringIO
from pathlib import Path

import jsonschema
import pytest
from typer.testing import CliRunner

from gca_core.annotation.models import UNKNOWN
from gca_core.cli.main import app, main

REPOSITORY = Path(__file__).resolve().parents[3]
TABLE = """\
name,top genes,n
b,"MS4A1, CD79A, CD79B, CD19, BANK1",12
"mono, ü",CD14;LYZ;S100A8;S100A9;FCN1,=7
b,,3
"""
COLUMNS = ("--cluster-column", "name", "--markers-column", "top genes")
RESULTS = ["label", "ontology_id", "confidence", "status", "proposed_label", "alternatives", "flag_reasons"]


@pytest.fixture
def table(tmp_path, monkeypatch):
    for name in ("GCA_LLM", "GCA_MARKER_DB_PATH", "GCA_REQUEST_ID"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "clusters.csv"
    path.write_text("\ufeff" + TABLE, encoding="utf-8")
    return path


def run(*arguments, **options):
    return CliRunner().invoke(app, ["annotate", *map(str, arguments)], **options)


def rows_of(text, delimiter=","):
    return list(csv.reader(StringIO(text), delimiter=delimiter))


def status_of(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["annotate", *map(str, arguments)])
    return ended.value.code


def test_each_row_comes_back_with_its_label(table):
    found = run(table, *COLUMNS, "--tissue", "blood")
    assert found.exit_code == 0, found.output
    header, b, mono, none = rows_of(found.stdout)
    assert header == ["name", "top genes", "n", *RESULTS]
    assert b[:5] == ["b", "MS4A1, CD79A, CD79B, CD19, BANK1", "12", "B cell", "CL:0000236"]
    assert (mono[0], mono[2]) == ("mono, ü", "'=7")
    assert (none[3], none[6]) == (UNKNOWN, "flagged")
    assert "no_markers_supplied" in none[9]


def test_the_name_in_a_vocabulary_comes_last_and_only_where_one_is_given(table, tmp_path):
    mine = tmp_path / "mine.csv"
    mine.write_text("label,ontology_id\nB lineage,CL:0000945\nMyeloid,CL:0000766\n")
    found = run(table, *COLUMNS, "--tissue", "blood", "--vocabulary", mine)
    assert found.exit_code == 0, found.output
    plain = rows_of(run(table, *COLUMNS, "--tissue", "blood").stdout)
    header, *rows = rows_of(found.stdout)
    assert header == [*plain[0], "vocabulary_label"]
    assert [row[:-1] for row in rows] == plain[1:]
    assert [row[-1] for row in rows] == ["B lineage", "Myeloid", UNKNOWN]


def test_a_column_of_the_input_never_hides_the_name_in_the_vocabulary():
    text = 'cluster,genes,vocabulary_label\n1,"MS4A1,CD79A,CD79B",old\n'
    header, row = rows_of(run("-", "--vocabulary", "broad", input=text).stdout)
    assert (header[2], header[-1]) == ("input_vocabulary_label", "vocabulary_label")
    assert (row[2], row[-1]) == ("old", "B cell")
    assert rows_of(run("-", input=text).stdout)[0][2] == "vocabulary_label"


def test_files_are_written_where_they_are_named(table, tmp_path):
    out, report = tmp_path / "o" / "labels.tsv", tmp_path / "o" / "r.json"
    found = run(table, *COLUMNS, "--out-csv", out, "--out-json", report, "--request-id", "batch-7")
    assert (found.exit_code, found.stdout) == (0, ""), found.output
    assert rows_of(out.read_text(encoding="utf-8"), "\t")[1][3] == "B cell"
    value = json.loads(report.read_text(encoding="utf-8"))
    assert value["stats"]["request_id"] == "batch-7"
    schema = json.loads(CliRunner().invoke(app, ["schema", "report"]).stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(value, schema)


@pytest.mark.parametrize("kind", ["annotation", "corrections", "result"])
def test_every_schema_is_a_schema(kind):
    schema = json.loads(CliRunner().invoke(app, ["schema", kind]).stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"].endswith("2020-12/schema")
    assert schema["properties"]


def test_a_report_with_another_field_does_not_fit_the_schema(table, tmp_path):
    run(table, *COLUMNS, "--out-json", tmp_path / "r.json", "--out-csv", tmp_path / "o.csv")
    value = json.loads((tmp_path / "r.json").read_text(encoding="utf-8")) | {"extra": 1}
    with pytest.raises(jsonschema.ValidationError, match="extra"):
        jsonschema.validate(value, json.loads(CliRunner().invoke(app, ["schema"]).stdout))


def test_settings_stand_in_for_options(table, tmp_path, monkeypatch):
    markers = tmp_path / "m.csv"
    markers.write_text("cell_type,gene_symbol\n" + "".join(f"mast cell,{g}\n" for g in ("MS4A1", "CD79A", "CD79B")))
    monkeypatch.setenv("GCA_MARKER_DB_PATH", str(markers))
    monkeypatch.setenv("GCA_REQUEST_ID", "from-env")
    found = run(table, *COLUMNS, "--out-csv", tmp_path / "o.csv", "--out-json", tmp_path / "r.json")
    assert found.exit_code == 0, found.output
    value = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert value["marker_database"]["n_types"] == 1
    assert value["stats"]["request_id"] == "from-env"


def test_stdin_is_read_for_a_dash():
    found = run("-", input="cluster\tgenes\n1\tMS4A1,CD79A,CD79B\n")
    assert rows_of(found.stdout)[1][2] == "B cell"


def test_a_row_a_gene_is_warned_of(tmp_path):
    path = tmp_path / "long.csv"
    path.write_text("cluster,gene\n" + "".join(f"{i % 2},{g}\n" for i, g in enumerate(["CD3D", "CD14"] * 4)))
    assert "join the genes of each cluster first" in " ".join(run(path).stderr.split())


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        ('name,top genes\nx,"A,B;C"\n', COLUMNS, "line 2, column 'top genes': genes are joined by more than one"),
        ("a,b\n1,2\n", (), "no column has a usual name for clusters; found 'a', 'b'"),
        ("cluster,markers\n1,ENSG00000156738\n", (), "'1' are Ensembl ids"),
        ("cluster,markers\n1,CD3D\n", ("--tissue", "moon"), "'moon' is not in the marker database"),
        ("cluster,markers\n1,CD3D\n", ("--tissue", "blod"), "did you mean 'blood'?"),
        ("cluster,markers\n1,CD3D\n", ("--species", "rat"), "'rat' is not one of"),
        ("cluster,markers\n1,CD3D\n", ("--vocabulary", "brood"), "bundled are: broad"),
        (b"cluster,markers\n\xff\xfe,CD3D\n", (), "is not UTF-8 text"),
    ],
)
def test_bad_input_ends_with_2_and_one_line(tmp_path, capsys, content, options, words):
    path = tmp_path / "t.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert status_of(path, *options, "--out-csv", tmp_path / "out.csv") == 2
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said
    assert not (tmp_path / "out.csv").exists()


def test_bad_usage_ends_with_2(table, tmp_path, capsys):
    assert status_of(table, "--no-such-option") == 2
    assert status_of(table, *COLUMNS, "--offline", "--model", "openai:m") == 2
    assert status_of(tmp_path / "none.csv") == 2
    assert status_of("cells.h5ad") == 2
    assert "use: gca scanpy annotate cells.h5ad" in capsys.readouterr().err


def test_what_the_machine_refuses_ends_with_1(table, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert status_of(table, *COLUMNS, "--out-csv", tmp_path / "file" / "out.csv") == 1
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_flagged_labels_fail_only_where_that_is_asked_for(table, tmp_path):
    out = tmp_path / "out.csv"
    assert run(table, *COLUMNS, "--out-csv", out).exit_code == 0
    assert status_of(table, *COLUMNS, "--out-csv", out, "--fail-on-flagged") == 3
    assert len(rows_of(out.read_text(encoding="utf-8"))) == 4


@pytest.mark.slow
def test_the_command_as_a_process(table, tmp_path):
    def gca(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "gca_core.cli.main", "annotate", *map(str, arguments)],
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=120,
            cwd=REPOSITORY,
            env=os.environ | {"PYTHONUTF8": "1"},
            check=False,
        )

    done = gca(table, *COLUMNS, "--tissue", "blood", "--fail-on-flagged", "--vocabulary", "broad")
    assert done.returncode == 3, done.stderr
    assert [row[3] for row in rows_of(done.stdout)[1:]][::2] == ["B cell", UNKNOWN]
    assert [row[-1] for row in rows_of(done.stdout)[1:]] == ["B cell", "monocyte", UNKNOWN]
    failed = gca(tmp_path / "none.csv", "--debug")
    assert (failed.returncode, failed.stdout) == (2, "")
    assert "Traceback" in failed.stderr
    assert failed.stderr.splitlines()[-1].startswith("error: the table")


def test_an_interrupt_says_what_is_kept(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    command = [sys.executable, "-m", "gca_core.cli.main", "annotate", str(tmp_path / "pipe.csv")]
    # what is started in the background ignores interrupts, and so would its children
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heard)
    with (tmp_path / "pipe.csv").open("w"):
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted: files that are there are whole; answers of a model so far are kept" in said
