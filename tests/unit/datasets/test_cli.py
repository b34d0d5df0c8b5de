import json

from typer.testing import CliRunner

from gca_core.cli.tools.datasets import app
from gca_core.datasets import list_data_files

RUNNER = CliRunner()


def test_the_table_shows_every_file_and_its_state():
    found = RUNNER.invoke(app, ["list"], env={"COLUMNS": "200"})
    assert found.exit_code == 0
    assert all(f.file in found.output for f in list_data_files())
    assert "CC BY 4.0" in found.output


def test_json_carries_licence_citation_and_state():
    found = RUNNER.invoke(app, ["list", "--json"])
    rows = {row["file"]: row for row in json.loads(found.stdout)}
    assert rows["datasets/kang2018_mini.h5ad"]["state"] == "ok"
    assert "GSE96583" in rows["datasets/kang2018_mini.h5ad"]["citation"]
    assert {"licence", "source", "bytes", "sha256"} <= set(rows["knowledge/cell_ontology.json.gz"])
    assert "path" not in rows["knowledge/cell_ontology.json.gz"]


def test_a_file_that_was_changed_gives_another_exit_code(monkeypatch, tmp_path):
    folder = tmp_path / "room" / "data"
    folder.mkdir(parents=True)
    entry = {"file": "a", "description": "d", "source": "s", "licence": "l", "citation": "", "sha256": "0", "bytes": 1}
    (folder / "manifest.json").write_text(json.dumps([entry]))
    monkeypatch.setattr("gca_core.datasets.resources.files", lambda _: tmp_path)
    found = RUNNER.invoke(app, ["list"])
    assert found.exit_code == 1
    assert "missing" in found.output
