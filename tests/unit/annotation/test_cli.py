import json

import pytest
from typer.testing import CliRunner

from gca_core.cli.scanpy import app
from gca_core.errors import DataValidationError

RUNNER = CliRunner()


@pytest.fixture(scope="module")
def source(simulated, tmp_path_factory):
    adata = simulated.copy()
    # coordinates that are there spare the UMAP
    adata.obsm["X_umap"] = adata.X[:, :2]
    path = tmp_path_factory.mktemp("cli") / "cells.h5ad"
    adata.write_h5ad(path)
    return path


def annotate(*arguments: str):
    return RUNNER.invoke(app, ["annotate", *arguments])


def test_the_table_names_labels_agreement_and_results(source, tmp_path):
    found = annotate(str(source), "--cluster-key", "truth", "--tissue", "PBMC", "--output", str(tmp_path), "--offline")
    assert found.exit_code == 0, found.output
    assert "megakaryocyte" in found.output
    assert "5 clusters, 0 flagged" in found.output
    assert (tmp_path / "report.html").is_file()


def test_json_carries_the_result(source, tmp_path):
    found = annotate(str(source), "--cluster-key", "truth", "--prefix", "p_", "-o", str(tmp_path), "--json")
    assert found.exit_code == 0, found.output
    result = json.loads(found.stdout)
    assert result["n_clusters"] == 5
    assert result["model"] is None


def test_a_marker_table_of_ones_own_is_used(source, tmp_path):
    table = tmp_path / "m.csv"
    genes = ["CD79A", "MS4A1", "CD19", "CD22", "PAX5", "BLK", "FCRL1", "FCRLA", "BANK1", "CD79B", "VPREB3"]
    others = ["PPBP", "PF4", "GP9", "ITGA2B", "TUBB1", "GNG11", "TREML1", "CMTM5", "ACRBP", "GP1BA", "TMEM40"]
    rows = [f"B cell,{g}" for g in genes] + [f"megakaryocyte,{g}" for g in others]
    table.write_text("cell_type,gene_symbol\n" + "\n".join(rows) + "\n")
    found = annotate(
        str(source), "--cluster-key", "truth", "--marker-db", str(table), "-o", str(tmp_path / "out"), "--json"
    )
    assert found.exit_code == 0, found.output
    assert set(json.loads(found.stdout)["labels"]) == {"B cell", "megakaryocyte", "Unknown or Novel"}


def test_wrong_input_ends_with_what_to_do(source, tmp_path):
    missing = annotate(str(tmp_path / "none.h5ad"), "-o", str(tmp_path / "out"))
    assert isinstance(missing.exception, DataValidationError)
    no_clusters = annotate(str(source), "--cluster-key", "leiden", "-o", str(tmp_path / "out"))
    assert isinstance(no_clusters.exception, DataValidationError)
    assert "leave it out to have clusters computed" in str(no_clusters.exception)
    assert annotate(str(source), "--top-n-markers", "1").exit_code == 2
    assert annotate(str(source), "--resolution", "0").exit_code == 2
    assert not (tmp_path / "out").exists()
