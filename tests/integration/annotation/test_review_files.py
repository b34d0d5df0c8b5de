import csv
import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from typer.testing import CliRunner

from gca_core.annotation import AnnotationConfig, annotate_file
from gca_core.annotation.cohort import CohortFile, write_cohort
from gca_core.annotation.labels.corrections import CORRECTIONS_FILE, load_corrections
from gca_core.annotation.review.apply import apply_review
from gca_core.annotation.validate import validate_file
from gca_core.cli.main import app
from gca_core.errors import DataValidationError


def config(source: Path, output: Path, **options) -> AnnotationConfig:
    # with so many markers asked for, every cluster is flagged
    given = {"cluster_key": "truth", "labels_key": "known", "min_overlap": 1000} | options
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


def table(folder: Path, labels: dict[str, str], *, name: str = "table.csv", run: str = ".") -> Path:
    path = folder.parent / name
    lines = [f"{run},{cluster},{label}" for cluster, label in labels.items()]
    path.write_text("\n".join(["run,cluster,corrected_label", *lines, ""]))
    return path


def results(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}


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
    before = results(run)

    def broken(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr("gca_core.annotation.run.render_html", broken)
    with pytest.raises(OSError, match="no space"):
        apply_review(table(run, {"b": "B cell"}), run, who="ada")
    assert results(run) == before


def test_an_annotated_file_that_is_no_such_file_is_refused_and_left(run):
    (run / "annotated.h5ad").write_bytes(b"not hdf5")
    before = results(run)
    with pytest.raises(DataValidationError, match=r"annotated\.h5ad"):
        apply_review(table(run, {"b": "B cell"}), run, who="ada")
    assert results(run) == before


def test_corrections_outlive_another_annotation_into_the_same_folder(run, source, caplog):
    caplog.set_level("INFO", logger="gca_core")
    apply_review(table(run, {"b": "B cell"}), run, who="ada")
    result = annotate_file(config(source, run, ranking="wilcoxon"))
    assert result.stats.overrides == 1
    assert result.labels["B cell"] == 60
    assert (run / CORRECTIONS_FILE).exists()
    assert f"the earlier results in {run.as_uri()} are replaced" in caplog.text


def test_corrections_of_one_run_can_be_given_to_another(run, source, tmp_path):
    apply_review(table(run, {"b": "B cell"}), run, who="ada")
    result = annotate_file(config(source, tmp_path / "new", corrections=str(run / CORRECTIONS_FILE)))
    assert result.stats.overrides == 1
    again = ad.read_h5ad(tmp_path / "new" / "annotated.h5ad")
    assert set(again.obs["gptca_label"][again.obs["truth"] == "b"]) == {"B cell"}


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


# each process says that it is there, and waits for the others before it writes
TOGETHER = """
import sys, time
from pathlib import Path
from gca_core.annotation import run
from gca_core.annotation.review.apply import apply_review

def wait(ready, go):
    Path(ready).touch()
    while not Path(go).exists():
        time.sleep(0.01)
"""
APPLIES = TOGETHER + "wait(*sys.argv[1:3]); time.sleep(0.1); apply_review(*sys.argv[3:5], who=sys.argv[5])"
ANNOTATES = (
    TOGETHER
    + """
draw = run.drawn_cells
run.drawn_cells = lambda *a, **kw: (wait(*sys.argv[1:3]), draw(*a, **kw))[1]
run.annotate_file(run.AnnotationConfig.model_validate_json(sys.argv[3]))
"""
)


def start(script: str, *arguments) -> subprocess.Popen:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def wait_for(*paths: Path) -> None:
    deadline = time.monotonic() + 120
    while not all(path.exists() for path in paths):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ended(process: subprocess.Popen) -> str:
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return errors


@pytest.mark.slow
def test_two_processes_that_apply_at_the_same_time_keep_each_others_decisions(run, tmp_path):
    go, decided = tmp_path / "go", {"ada": {"b": "B cell"}, "bob": {"nk": "natural killer cell"}}
    # one names the run, the other the folder above it
    places, started = {"ada": (run, "."), "bob": (tmp_path, "s1")}, []
    for who, labels in decided.items():
        where, name = places[who]
        filled = table(run, labels, name=f"{who}.csv", run=name)
        started.append(start(APPLIES, tmp_path / who, go, filled, where, who))
    wait_for(*(tmp_path / who for who in decided))
    go.touch()
    for process in started:
        ended(process)
    kept = load_corrections(run / CORRECTIONS_FILE).corrections
    assert {c.cluster: (c.label, c.who) for c in kept} == {
        "b": ("B cell", "ada"),
        "nk": ("natural killer cell", "bob"),
    }
    labels = ad.read_h5ad(run / "annotated.h5ad").obs.groupby("truth", observed=True)["gptca_label"].first()
    assert (labels["b"], labels["nk"]) == ("B cell", "natural killer cell")


@pytest.mark.slow
def test_while_a_folder_is_annotated_others_are_told_so_at_once_and_change_nothing(run, source, tmp_path):
    go, ready, before = tmp_path / "go", tmp_path / "ready", results(run)
    again = config(source, run, min_overlap=2)
    process = start(ANNOTATES, ready, go, again.model_dump_json())
    try:
        wait_for(ready)
        busy = rf"already running: process {process.pid} on {socket.gethostname()}, since 2.* UTC, writes to '{run}'"
        with pytest.raises(DataValidationError, match=busy):
            annotate_file(again)
        with pytest.raises(DataValidationError, match=busy):
            validate_file(config(source, run))
        with pytest.raises(DataValidationError, match=busy):
            apply_review(table(run, {"b": "B cell"}), run, who="bob", wait=0.2)
        with pytest.raises(DataValidationError, match="no cluster 'zz'"):
            apply_review(table(run, {"zz": "B cell"}), run, who="bob")
        assert results(run) == before
    finally:
        go.touch()
    ended(process)
    assert results(run) != before
    assert apply_review(table(run, {"b": "B cell"}), run, who="bob", wait=0.2).applied == {".": 1}


@pytest.fixture
def cohort(run, tmp_path) -> Path:
    """A cohort of a file that was annotated and one that failed."""
    files = [
        CohortFile(name=name, input_uri=f"file:///data/{name}.h5ad", output_uri=(tmp_path / name).as_uri())
        for name in ("s1", "s2")
    ]
    write_cohort(tmp_path, files, {files[0].output_uri})
    return tmp_path


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.mark.parametrize("of_one_run", [False, True])
def test_the_summary_of_a_cohort_follows_its_corrections(cohort, run, of_one_run):
    before = rows_of(cohort / "cohort.csv")
    filled = table(run, {"b": "B cell", "nk": "NK cell"}, run="." if of_one_run else "s1")
    apply_review(filled, run if of_one_run else cohort, who="ada")
    found, failed = rows_of(cohort / "cohort.csv")
    assert (before[0]["flagged"], before[0]["unknown_cells"], before[0]["agreement_exact"]) == ("5", "300", "0.0")
    assert (found["flagged"], found["unknown_cells"], found["agreement_exact"]) == ("3", "180", "0.4")
    assert failed == before[1]
    assert failed["status"] == "failed"
    unchanged = [name for name in found if found[name] == before[0][name]]
    assert {"file", "input", "status", "clusters", "cells", "report", "marker_database"} <= set(unchanged)
    shares = {row["label"]: row["cells"] for row in rows_of(cohort / "composition.csv")}
    assert shares == {"B cell": "60", "natural killer cell": "60", "Unknown or Novel": "180"}
    page = (cohort / "cohort.html").read_text()
    assert "3 clusters to review" in page
    assert "since this page was written" not in page
    assert [row["cluster"] for row in rows_of(cohort / "review.csv")] == ["cd14", "cd16", "mega"]
    assert "3 clusters to review" in (cohort / "review.html").read_text()


@pytest.mark.parametrize("spoil", ["columns", "file"])
def test_a_summary_that_cannot_be_made_anew_says_that_it_is_older(cohort, run, caplog, spoil):
    text = (cohort / "cohort.csv").read_text()
    (cohort / "cohort.csv").write_text(
        text.replace("file,status", "a,b") if spoil == "columns" else text + "s3,annotated\n"
    )
    for _ in range(2):
        apply_review(table(run, {"b": "B cell"}, run="s1"), cohort, who="ada")
    assert load_corrections(run / CORRECTIONS_FILE).corrections[0].label == "B cell"
    page = (cohort / "cohort.html").read_text()
    assert page.count("Corrections were applied since this page was written") == 1
    assert "could not be written anew" in caplog.text
