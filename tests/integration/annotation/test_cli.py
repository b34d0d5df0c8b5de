import json
import os
import subprocess
import sys
from pathlib import Path

import anndata as ad
import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from gca_core.annotation import AnnotationConfig, DatasetReport
from gca_core.annotation.config import make_options
from gca_core.cli.annotation.scanpy import app
from gca_core.errors import ConfigurationError, DataValidationError

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


def test_labels_are_also_written_in_a_vocabulary_and_judged_ones_are_not(source, tmp_path):
    run = (str(source), "--cluster-key", "truth", "-o", str(tmp_path / "out"), "--vocabulary", "broad")
    found = annotate(*run)
    assert found.exit_code == 0, found.output
    obs = ad.read_h5ad(tmp_path / "out" / "annotated.h5ad").obs
    assert set(obs["gptca_vocabulary_label"]) == {"B cell", "NK cell", "monocyte", "megakaryocyte"}
    judged = annotate(*run, "--validate-only", "--label-column", "truth")
    assert judged.exit_code == 2
    assert "names no labels anew" in " ".join(judged.output.replace("│", " ").split())


def test_wrong_input_ends_with_what_to_do(source, tmp_path):
    missing = annotate(str(tmp_path / "none.h5ad"), "-o", str(tmp_path / "out"))
    assert isinstance(missing.exception, DataValidationError)
    no_clusters = annotate(str(source), "--cluster-key", "leiden", "-o", str(tmp_path / "out"))
    assert isinstance(no_clusters.exception, DataValidationError)
    assert "leave it out where there is none" in str(no_clusters.exception)
    assert annotate(str(source), "--top-n-markers", "1").exit_code == 2
    assert not (tmp_path / "out").exists()


def test_every_option_reaches_the_report_and_its_copies(source, tmp_path, monkeypatch):
    monkeypatch.setenv("GCA_SEED", "7")
    copies = {"--json-report": "r.json", "--summary-csv": "s.csv", "--html-report": "p.html"}
    places = [word for option, name in copies.items() for word in (option, str(tmp_path / "copies" / name))]
    found = annotate(
        *(str(source), "--cluster-key", "truth", "--preset", "human_pbmc", "--top-n-markers", "12"),
        *("--guardrail-min-overlap", "50", "--no-guardrail-force-unknown", "--request-id", "run-1"),
        *("-o", str(tmp_path / "out"), *places),
    )
    assert found.exit_code == 0, found.output
    for name, copy in {"report.json": "r.json", "clusters.csv": "s.csv", "report.html": "p.html"}.items():
        assert (tmp_path / "copies" / copy).read_bytes() == (tmp_path / "out" / name).read_bytes()
    value = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    jsonschema.validate(value, DatasetReport.model_json_schema(mode="serialization"))
    assert (value["species"], value["tissue"], value["top_n_markers"]) == ("human", "blood", 12)
    assert (value["seed"], value["stats"]["request_id"]) == (7, "run-1")
    assert {a["status"] for a in value["annotations"]} == {"flagged"}
    assert "Unknown or Novel" not in {a["primary_label"] for a in value["annotations"]}


def test_a_ranking_that_is_there_is_used(source, tmp_path):
    import scanpy as sc

    adata = ad.read_h5ad(source)
    sc.pp.log1p(adata)
    sc.tl.rank_genes_groups(adata, "truth", method="t-test", n_genes=20)
    adata.write_h5ad(tmp_path / "ranked.h5ad")
    run = (str(tmp_path / "ranked.h5ad"), "--cluster-key", "truth", "-o", str(tmp_path / "out"))
    found = annotate(*run, "--skip-recompute-markers")
    assert found.exit_code == 0, found.output
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert "rank_genes_groups" in report["ranking"]
    missing = annotate(str(source), "--cluster-key", "truth", "--skip-recompute-markers", "-o", str(tmp_path / "none"))
    assert "there is no ranking" in str(missing.exception)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--preset", "mouse_brain", "--tissue", "blood"), "the preset mouse_brain means tissue 'brain'"),
        (("--preset", "rat_tail"), "the preset 'rat_tail' is not known; use one of human_pbmc"),
        (("--skip-recompute-markers",), "name their column as cluster_key"),
        (("--request-id", "a b"), "request_id: "),
        (("--resolution", "0"), "resolution: Input should be greater than 0; found 0.0"),
        (("--validate-only",), "no column of labels to judge is named"),
    ],
)
def test_options_that_do_not_fit_are_named(source, tmp_path, options, words):
    found = annotate(str(source), "-o", str(tmp_path / "out"), *options)
    assert isinstance(found.exception, ConfigurationError)
    assert words in str(found.exception)
    assert not (tmp_path / "out").exists()


VALUES = st.one_of(st.none(), st.integers(-3, 60), st.text(max_size=8), st.floats(), st.booleans())


@settings(max_examples=60)
@given(st.dictionaries(st.sampled_from(sorted(AnnotationConfig.model_fields)), VALUES))
def test_any_options_make_a_configuration_or_are_refused(given_options):
    try:
        config = make_options(AnnotationConfig, {"input_uri": "a.h5ad", "output_uri": "out"} | given_options)
    except ConfigurationError as error:
        assert str(error)
        return
    assert config.top_n_markers >= 5
    assert AnnotationConfig.model_validate(config.model_dump()) == config


@pytest.mark.slow
def test_the_package_is_the_command_too(source, tmp_path):
    run = [sys.executable, "-m", "gca_core.annotation", "annotate", str(source), "--cluster-key", "truth", "--json"]
    done = subprocess.run(
        [*run, "-o", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).resolve().parents[3],
        env=os.environ | {"GCA_LLM": ""},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["n_clusters"] == 5
