import json
from pathlib import Path

import anndata as ad
import pytest
from typer.testing import CliRunner

from gca_core.annotation import AnnotationConfig, validate_file
from gca_core.cli.annotation.scanpy import app
from gca_core.errors import ConfigurationError, DataValidationError


@pytest.fixture(scope="module")
def source(simulated, tmp_path_factory) -> Path:
    adata = simulated.copy()
    names = {"b": "natural killer cell", "nk": "NK cells", "cd14": "monocyte", "cd16": "monocyte", "mega": "platelets"}
    adata.obs["label"] = adata.obs["truth"].astype(str).map(names)
    adata.obsm["X_umap"] = adata.X[:, :2]
    path = tmp_path_factory.mktemp("validate") / "cells.h5ad"
    adata.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def result(source):
    config = AnnotationConfig(
        input_uri=str(source), output_uri=str(source.parent / "out"), cluster_key="truth", labels_key="label"
    )
    return validate_file(config)


def read(result, what) -> Path:
    return Path(result.uris[what].removeprefix("file://"))


def test_the_results_hold_the_judgement_and_the_labels_as_they_were(result, source):
    report = json.loads(read(result, "json").read_text(encoding="utf-8"))
    assert report["judged_column"] == "label"
    wrong = next(a for a in report["annotations"] if a["cluster"] == "b")
    assert (wrong["primary_label"], wrong["status"]) == ("natural killer cell", "flagged")
    assert wrong["alternatives"][0]["label"] == "B cell"
    before, after = ad.read_h5ad(source), ad.read_h5ad(read(result, "h5ad"))
    assert list(after.obs["label"]) == list(before.obs["label"])
    assert "gptca_label" not in after.obs
    assert set(after.obs.loc[after.obs["truth"] == "b", "gptca_status"]) == {"flagged"}
    assert "natural killer cell" in read(result, "html").read_text(encoding="utf-8")
    assert result.labels["monocyte"] == 120


def test_a_column_of_labels_has_to_be_named(source, tmp_path):
    with pytest.raises(ConfigurationError, match="no column of labels to judge is named"):
        validate_file(AnnotationConfig(input_uri=str(source), output_uri=str(tmp_path)))


def test_two_names_of_one_command_do_the_same(source, tmp_path, result):
    options = [str(source), "--cluster-key", "truth", "--label-column", "label", "--json"]
    found = []
    for command in (["validate", *options], ["annotate", *options, "--validate-only"]):
        done = CliRunner().invoke(app, [*command, "-o", str(tmp_path / command[0])])
        assert done.exit_code == 0, done.output
        found.append(json.loads(done.stdout))
    for each in found:
        assert (each["n_flagged"], each["labels"]) == (result.n_flagged, result.labels)


def test_flagged_labels_can_end_the_command_with_3(source, tmp_path):
    run = ["validate", str(source), "--cluster-key", "truth", "--label-column", "label", "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*run, "--fail-on-flagged"])
    assert done.exit_code == 3
    assert "5 labels judged" in done.output
    assert "B cell" in done.output
    assert (tmp_path / "out" / "report.json").is_file()


def test_what_has_no_part_in_validation_is_refused(source, tmp_path):
    run = ["validate", str(source), "--label-column", "label", "-o", str(tmp_path / "out")]
    assert CliRunner().invoke(app, [*run, "--model", "openai:m"]).exit_code == 2
    assert CliRunner().invoke(app, [*run, "--corrections", "c.json"]).exit_code == 2
    nowhere = CliRunner().invoke(app, ["validate", str(source), "--label-column", "nope", "-o", str(tmp_path / "out")])
    assert isinstance(nowhere.exception, DataValidationError)
    assert not (tmp_path / "out").exists()
