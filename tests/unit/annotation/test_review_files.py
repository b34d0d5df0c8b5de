import json
import shutil
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from typer.testing import CliRunner

from gca_core.annotation import AnnotationConfig, annotate_file
from gca_core.annotation.review import CORRECTIONS_FILE
from gca_core.annotation.review_apply import apply_review
from gca_core.cli.main import app
from gca_core.errors import DataValidationError


def config(source: Path, output: Path, **options) -> AnnotationConfig:
    # with so many markers asked for, every cluster is flagged
    given = {"cluster_key": "truth", "label_column": "known", "min_overlap": 1000} | options
    return AnnotationConfig(input_uri=str(source), output_uri=str(output), **given)


@pytest.fixture(scope="module")
def source(simulated, tmp_path_factory) -> Path:
    adata = simulated.copy()
    names = {
        "b": "B cell",
        "nk": "natural killer cell",
        "cd14": "monocyte",
        "cd16": "monocyte",
        "mega": "megakaryocyte",
    }
    adata.obs["known"] = adata.obs["truth"].map(names).astype("category")
    adata.obsm["X_umap"] = np.random.default_rng(0).normal(size=(adata.n_obs, 2))
    path = tmp_path_factory.mktemp("source") / "cells.h5ad"
    adata.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def annotated(source) -> Path:
    annotate_file(config(source, source.parent / "s1"))
    return source.parent / "s1"


@pytest.fixture
def run(annotated, tmp_path) -> Path:
    shutil.copytree(annotated, tmp_path / "s1")
    return tmp_path / "s1"


def table(folder: Path, labels: dict[str, str]) -> Path:
    path = folder.parent / "table.csv"
    lines = [f".,{cluster},{label}" for cluster, label in labels.items()]
    path.write_text("\n".join(["run,cluster,corrected_label", *lines, ""]))
    return path


def test_corrections_reach_cells_record_agreement_and_pictures(run):
    before = json.loads((run / "report.json").read_text())["agreement"]["exact"]
    picture = (run / "umap.png").read_bytes()
    apply_review(table(run, {"b": "B cell", "nk": "NK cell"}), run, who="ada")
    adata = ad.read_h5ad(run / "annotated.h5ad")
    cells = adata.obs[adata.obs["truth"] == "b"]
    assert set(cells["gptca_label"]) == {"B cell"}
    assert set(cells["gptca_ontology_id"]) == {"CL:0000236"}
    assert set(cells["gptca_status"]) == {"supported"}
    assert set(adata.obs["gptca_label"][adata.obs["truth"] == "mega"]) == {"Unknown or Novel"}
    assert list(adata.obs.columns[:2]) == ["truth", "known"]
    assert len(json.loads(adata.uns["gca_annotation"]["corrections"])["corrections"]) == 2
    after = json.loads((run / "report.json").read_text())
    assert (before, after["agreement"]["exact"]) == (0.0, 0.4)
    assert json.loads(adata.uns["gca_annotation"]["report"])["agreement"]["exact"] == 0.4
    assert (run / "umap.png").read_bytes() != picture
    page = (run / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "Cell types of cells.h5ad" in page


def test_the_matrix_and_what_else_the_file_holds_stay_as_they_are(run, source):
    apply_review(table(run, {"b": "B cell"}), run, who="ada")
    before, after = ad.read_h5ad(source), ad.read_h5ad(run / "annotated.h5ad")
    assert (before.X != after.X).sum() == 0
    assert before.var.equals(after.var)
    assert np.array_equal(before.obsm["X_umap"], after.obsm["X_umap"])


def test_a_break_while_writing_leaves_every_result_as_it_was(run, monkeypatch):
    before = {path.name: path.read_bytes() for path in run.iterdir()}

    def broken(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr("gca_core.annotation.review_apply.render_html", broken)
    with pytest.raises(OSError, match="no space"):
        apply_review(table(run, {"b": "B cell"}), run, who="ada")
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_an_annotated_file_that_is_no_such_file_is_refused_and_left(run):
    (run / "annotated.h5ad").write_bytes(b"not hdf5")
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(DataValidationError, match=r"annotated\.h5ad"):
        apply_review(table(run, {"b": "B cell"}), run, who="ada")
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_corrections_outlive_another_annotation_into_the_same_folder(run, source):
    apply_review(table(run, {"b": "B cell"}), run, who="ada")
    result = annotate_file(config(source, run, ranking="wilcoxon"))
    assert result.stats.overrides == 1
    assert result.labels["B cell"] == 60
    assert (run / CORRECTIONS_FILE).exists()


def test_corrections_of_one_run_can_be_given_to_another(run, source, tmp_path):
    apply_review(table(run, {"b": "B cell"}), run, who="ada")
    result = annotate_file(config(source, tmp_path / "new", corrections=str(run / CORRECTIONS_FILE)))
    assert result.stats.overrides == 1
    again = ad.read_h5ad(tmp_path / "new" / "annotated.h5ad")
    assert set(again.obs["gptca_label"][again.obs["truth"] == "b"]) == {"B cell"}


def test_zarr_results_are_corrected_too(source, tmp_path):
    ad.read_h5ad(source).write_zarr(tmp_path / "cells.zarr")
    annotate_file(config(tmp_path / "cells.zarr", tmp_path / "out"))
    apply_review(table(tmp_path / "out", {"b": "B cell"}), tmp_path / "out", who="ada")
    adata = ad.read_zarr(tmp_path / "out" / "annotated.zarr")
    assert set(adata.obs["gptca_label"][adata.obs["truth"] == "b"]) == {"B cell"}


def test_the_command_lists_applies_and_makes_markers(run):
    listed = CliRunner().invoke(app, ["review", str(run)])
    assert "5 of 5 clusters in 1 run flagged" in listed.stdout
    text = (run / "review.csv").read_text()
    lines = text.splitlines()
    lines[1] = lines[1].removesuffix(",") + "B cell,"
    (run / "review.csv").write_text("\n".join(lines) + "\n")
    options = ["--apply", str(run / "review.csv"), "--who", "ada", "--as-markers", str(run / "my.csv")]
    applied = CliRunner().invoke(app, ["review", str(run), *options])
    assert applied.exit_code == 0
    assert "1 correction applied as ada" in applied.stdout
    assert "15 markers in" in applied.stdout


def test_the_command_refuses_in_one_line_with_exit_code_2(run):
    command = [sys.executable, "-m", "gca_core.cli.main", "review", str(run / "nowhere")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: ")
    assert "does not exist" in done.stderr
