"""``gca knowledge`` as a user runs it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from gca_core.cli.main import app
from gca_core.errors import DataValidationError
from tests.helpers.knowledge_loopback import serve, usual

Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return lambda *arguments: CliRunner().invoke(app, ["knowledge", *arguments])


def test_status_lists_every_part_and_what_it_holds(run: Run) -> None:
    done = run("status", "--json")
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert {part["state"] for part in found["parts"]} == {"ok"}
    assert found["counts"]["perturbations: drug"] >= 150
    assert found["counts"]["gene sets: go_bp"] == 9006
    assert not any(found["online"].values())
    assert "reactome.tsv.gz" in run("status").stdout


def test_status_fails_on_a_damaged_part(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {"file": "x.gz", "description": "", "source": "", "licence": "", "citation": "", "sha256": "", "bytes": 1}
    (tmp_path / "manifest.json").write_text(json.dumps([entry]))
    monkeypatch.setenv("GCA_KNOWLEDGE_DIR", str(tmp_path))
    assert run("status").exit_code == 1


def test_a_perturbation_is_shown_with_its_targets(run: Run) -> None:
    found = json.loads(run("lookup", "INCB018424", "--json").stdout)
    assert found["perturbation"]["name"] == "ruxolitinib"
    assert {"gene": "JAK1", "direction": "down"} in found["perturbation"]["targets"]
    assert "gene" not in found
    assert "-JAK1 -JAK2" in run("lookup", "ruxolitinib").stdout


def test_an_ambiguous_name_says_so(run: Run) -> None:
    assert "may mean doxorubicin, doxycycline; not taken" in run("lookup", "DOX").stdout
    assert "taken as TGF-beta 1" in run("lookup", "TGF-beta").stdout


def test_a_gene_is_shown_with_what_acts_on_it(run: Run) -> None:
    found = json.loads(run("lookup", "JAK1", "--limit", "3", "--json").stdout)["gene"]
    assert len(found["neighbours"]) == 3
    assert {"gene": "ruxolitinib", "direction": "down"} in found["acted_on_by"]


def test_a_cell_type_is_shown_with_its_lineage_and_a_tissue_with_its_id(run: Run) -> None:
    assert "> monocyte" in run("lookup", "CD14+ monocytes").stdout
    assert "blood (UBERON:0000178)" in run("lookup", "PBMC").stdout


def test_what_means_nothing_is_refused_with_suggestions(run: Run) -> None:
    done = run("lookup", "ruxolitinob")
    assert isinstance(done.exception, DataValidationError)
    assert "ruxolitinib" in str(done.exception)


def test_services_are_asked_on_request(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(usual) as loopback:
        urls = dict.fromkeys(("reactome", "uniprot", "ensembl", "pubmed"), loopback.url)
        monkeypatch.setenv("GCA_ONLINE_URLS", json.dumps(urls))
        monkeypatch.setenv("GCA_ONLINE_SOURCES", "reactome,uniprot,ensembl")
        monkeypatch.setenv("GCA_CACHE_DIR", str(tmp_path))
        found = json.loads(run("lookup", "STAT1", "--online", "--json").stdout)["online"]
        assert run("lookup", "STAT1").exit_code == 0
    assert found["protein"]["value"]["accession"] == "P42224"
    assert found["pathways"]["source"] == "reactome"
    assert found["literature"] == {"source": "snapshot", "missing": ["pubmed: not switched on"], "value": None}


def test_a_snapshot_is_built_where_it_is_asked_for(run: Run, tmp_path: Path) -> None:
    (tmp_path / "ReactomePathways.gmt").write_text("One\tR-HSA-1\tA\tB\n")
    done = run("build", "--source", str(tmp_path), "--output", str(tmp_path / "out"))
    assert done.exit_code == 0
    assert "skipped" in done.stdout
    assert (tmp_path / "out" / "reactome.tsv.gz").exists()
    assert run("build", "--source", str(tmp_path)).exit_code == 2


def test_disagreements_with_a_table_are_printed(run: Run, tmp_path: Path) -> None:
    table = "DRUG_NAME\tGENE\tACTION_TYPE\nruxolitinib\tJAK1\tAGONIST\nruxolitinib\tJAK2\tINHIBITOR\n"
    (tmp_path / "drugcentral2016_drug_target.tsv").write_text(table)
    done = run("check", "--reference", str(tmp_path))
    assert done.exit_code == 0
    assert "the table has JAK1 up" in done.stdout
    counts = json.loads(run("check", "--reference", str(tmp_path), "--json").stdout)[0]["counts"]
    assert counts == {"agree": 1, "disagree": 1, "not in table": 0}
