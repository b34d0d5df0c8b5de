"""Vocabularies over files: every format gets the column and loses it again, and a review names what it corrects."""

import csv
import json
import logging
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pytest
import zarr

from gca_core.annotation import AnnotationConfig, annotate_file, validate_file
from gca_core.annotation.models import UNKNOWN
from gca_core.annotation.review.apply import apply_review
from gca_core.errors import ConfigurationError, DataValidationError

NAMED = "gptca_vocabulary_label"
VOCABULARY = "label,ontology_id\nLymphoid,CL:0000542\nNatural killer,CL:0000623\n"


@pytest.fixture(scope="module")
def folder(simulated, tmp_path_factory) -> Path:
    adata = simulated.copy()
    # coordinates that are there spare the UMAP
    adata.obsm["X_umap"] = np.random.default_rng(0).normal(size=(adata.n_obs, 2))
    found = tmp_path_factory.mktemp("vocabulary")
    adata.write_h5ad(found / "cells.h5ad")
    adata.write_zarr(found / "cells.zarr")
    (found / "mine.csv").write_text(VOCABULARY)
    return found


def annotate(source: Path, output: Path, **options):
    given = {"cluster_key": "truth", "tissue": "blood"} | options
    return annotate_file(AnnotationConfig(input_uri=str(source), output_uri=str(output), **given))


def local(result) -> Path:
    return Path(next(result.uris[kind] for kind in ("h5ad", "zarr") if kind in result.uris).removeprefix("file://"))


def read(path: Path) -> ad.AnnData:
    return ad.read_zarr(path) if path.suffix == ".zarr" else ad.read_h5ad(path)


def names(path: Path) -> dict[str, str]:
    obs = read(path).obs
    found = {
        str(cluster): set(part[NAMED].astype(object).fillna("-"))
        for cluster, part in obs.groupby("truth", observed=True)
    }
    assert all(len(values) == 1 for values in found.values())
    return {cluster: values.pop() for cluster, values in found.items()}


@pytest.mark.parametrize(
    ("name", "backed"), [("cells.h5ad", True), pytest.param("cells.zarr", False, marks=pytest.mark.slow)]
)
def test_the_column_is_written_and_goes_with_the_next_annotation_without(folder, tmp_path, name, backed, caplog):
    with caplog.at_level(logging.WARNING, logger="gca_core.annotation.labels.vocabulary"):
        first = annotate(folder / name, tmp_path / "a", vocabulary=str(folder / "mine.csv"), backed=backed)
    found = names(local(first))
    assert found == {"b": "Lymphoid", "nk": "Natural killer", "cd14": "-", "cd16": "-", "mega": "-"}
    assert sum("no name at or above" in record.getMessage() for record in caplog.records) == 1
    again = local(annotate(local(first), tmp_path / "b", backed=backed))
    before, after = read(local(first)).obs, read(again).obs
    assert list(after) == [column for column in before if column != NAMED]
    if again.suffix == ".h5ad":
        with h5py.File(again) as file:
            assert NAMED not in file["obs"]
    else:
        assert NAMED not in zarr.open_group(str(again), mode="r")["obs"]


def test_report_and_tables_say_which_vocabulary_named_the_labels(folder, tmp_path):
    annotate(folder / "cells.h5ad", tmp_path, vocabulary="broad")
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["vocabulary"]["name"], report["vocabulary"]["n_names"]) == ("broad", 42)
    labels = {a["cluster"]: a["vocabulary_label"] for a in report["annotations"]}
    assert labels == {"b": "B cell", "nk": "NK cell", "cd14": "monocyte", "cd16": "monocyte", "mega": "megakaryocyte"}
    rows = csv.DictReader((tmp_path / "clusters.csv").read_text().splitlines())
    assert {row["cluster"]: row["vocabulary_label"] for row in rows} == labels
    assert "broad: 42 names, sha256" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("name", ["cells.h5ad", pytest.param("cells.zarr", marks=pytest.mark.slow)])
def test_a_review_names_what_it_corrects_though_the_table_is_gone(folder, tmp_path, name):
    table = tmp_path / "mine.csv"
    table.write_text(VOCABULARY)
    run = tmp_path / "run"
    result = annotate(folder / name, run, vocabulary=str(table))
    table.unlink()
    decided = {"cd14": "NK cell", "nk": UNKNOWN, "mega": "T cell"}
    lines = ["run,cluster,corrected_label", *(f".,{cluster},{label}" for cluster, label in decided.items()), ""]
    (tmp_path / "decided.csv").write_text("\n".join(lines))
    apply_review(tmp_path / "decided.csv", run, who="ada")
    expected = {"b": "Lymphoid", "nk": UNKNOWN, "cd14": "Natural killer", "cd16": "-", "mega": "Lymphoid"}
    assert names(local(result)) == expected
    report = json.loads((run / "report.json").read_text())
    assert {a["cluster"]: a["vocabulary_label"] or "-" for a in report["annotations"]} == expected


def test_a_review_of_results_without_a_vocabulary_adds_no_column(folder, tmp_path):
    result = annotate(folder / "cells.h5ad", tmp_path / "run")
    (tmp_path / "decided.csv").write_text("run,cluster,corrected_label\n.,cd14,NK cell\n")
    apply_review(tmp_path / "decided.csv", tmp_path / "run", who="ada")
    assert NAMED not in read(local(result)).obs


def test_a_vocabulary_that_cannot_be_read_leaves_earlier_results_alone(folder, tmp_path):
    annotate(folder / "cells.h5ad", tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").glob("?*.*")}
    with pytest.raises(DataValidationError, match="bundled are: broad"):
        annotate(folder / "cells.h5ad", tmp_path / "run", vocabulary=str(tmp_path / "none.csv"))
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").glob("?*.*")} == before


def test_labels_that_are_judged_are_not_named_anew(folder, tmp_path):
    config = AnnotationConfig(
        input_uri=str(folder / "cells.h5ad"), output_uri=str(tmp_path), labels_key="truth", vocabulary="broad"
    )
    with pytest.raises(ConfigurationError, match="leave the vocabulary out"):
        validate_file(config)
