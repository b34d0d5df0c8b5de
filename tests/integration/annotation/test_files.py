import json
import time
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr

from gca_core.annotation import AnnotationConfig, annotate_file
from gca_core.annotation.adata import files as formats
from gca_core.annotation.labels.corrections import Correction, Corrections
from gca_core.annotation.report import drawn_cells as drawing
from gca_core.errors import DataValidationError
from gca_core.io import write_json

LABELLED = {"b": "B cell", "nk": "natural killer cell", "mega": "megakaryocyte"}


@pytest.fixture(scope="module")
def cells(simulated) -> ad.AnnData:
    """Counts with a UMAP, a layer, raw and what annotation has no use for."""
    adata = simulated.copy()
    adata.layers["twice"] = 2 * adata.X
    adata.raw = adata.copy()
    adata.obsm["X_umap"] = np.random.default_rng(0).normal(size=(adata.n_obs, 2))
    adata.obsm["X_pca"] = np.zeros((adata.n_obs, 3))
    adata.uns["note"] = "kept"
    adata.obs["donor"] = pd.Categorical(np.where(np.arange(adata.n_obs) % 2, "x", "y"))
    return adata


@pytest.fixture(scope="module")
def folder(cells, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("formats")
    cells.write_h5ad(folder / "cells.h5ad")
    cells.write_zarr(folder / "cells.zarr")
    return folder


def annotate(source: Path, output: Path, **options):
    given = {"cluster_key": "truth", "tissue": "blood"} | options
    return annotate_file(AnnotationConfig(input_uri=str(source), output_uri=str(output), **given))


def annotated(result) -> ad.AnnData:
    if "zarr" in result.uris:
        return ad.read_zarr(result.uris["zarr"].removeprefix("file://"))
    return ad.read_h5ad(result.uris["h5ad"].removeprefix("file://"))


def report(result) -> dict:
    found = json.loads(Path(result.uris["json"].removeprefix("file://")).read_text())
    del found["stats"]
    return found


@pytest.fixture(scope="module")
def reference(folder):
    return annotate(folder / "cells.h5ad", folder / "reference")


@pytest.mark.parametrize(("name", "backed"), [("cells.h5ad", True), ("cells.zarr", False), ("cells.zarr", True)])
def test_formats_and_backed_files_give_the_same_report_and_keep_the_data(
    folder, cells, reference, tmp_path, name, backed
):
    result = annotate(folder / name, tmp_path / "out", backed=backed)
    assert report(result) == report(reference)
    assert ("zarr" in result.uris) == name.endswith("zarr")
    found = annotated(result)
    assert np.array_equal(found.X, cells.X)
    assert np.array_equal(found.layers["twice"], cells.layers["twice"])
    assert np.array_equal(found.raw.X, cells.X)
    assert set(found.obsm) == {"X_umap", "X_pca"}
    assert found.uns["note"] == "kept"
    pd.testing.assert_frame_equal(found.obs, annotated(reference).obs)
    assert {label: set(found.obs["truth"][found.obs["gptca_label"] == label]) for label in LABELLED.values()} == {
        label: {name} for name, label in LABELLED.items()
    }


@pytest.mark.parametrize("name", ["x.h5ad", "x.zarr"])
def test_a_file_without_cells_or_genes_is_refused(tmp_path, name):
    with h5py.File(tmp_path / "x.h5ad", "w") as file:
        file.create_group("X")
    zarr.open_group(str(tmp_path / "x.zarr"), mode="w")
    for backed in (True, False):
        with pytest.raises(DataValidationError, match="has no obs, var"):
            annotate(tmp_path / name, tmp_path / "out", backed=backed)
    assert not (tmp_path / "out").exists()


def test_large_matrices_stay_in_their_file_unless_told_otherwise(folder, monkeypatch):
    with formats.open_data(str(folder / "cells.h5ad")) as data:
        assert not data.backed
    monkeypatch.setattr(formats, "LARGE", 1000)
    for name in ("cells.h5ad", "cells.zarr"):
        with formats.open_data(str(folder / name)) as data:
            assert data.backed
            assert not isinstance(data.adata.X, np.ndarray)
            assert not data.adata.uns
    with formats.open_data(str(folder / "cells.h5ad"), backed=False) as data:
        assert isinstance(data.adata.X, np.ndarray)


def test_clusters_of_a_large_file_are_asked_for(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("gca_core.annotation.pipeline.MAX_EMBEDDED", 100)
    with pytest.raises(DataValidationError, match="name the column with the clusters as cluster_key"):
        annotate(folder / "cells.h5ad", tmp_path / "out", cluster_key=None, backed=True)


def test_a_large_set_without_a_umap_is_drawn_in_part_and_it_is_said(cells, tmp_path, monkeypatch):
    adata = cells.copy()
    del adata.obsm["X_umap"]
    adata.obs["k"] = adata.obs["truth"].astype(str)
    adata.obs.iloc[0, adata.obs.columns.get_loc("k")] = "one cell"
    adata.write_h5ad(tmp_path / "cells.h5ad")
    monkeypatch.setattr(drawing, "MAX_DRAWN", 60)
    monkeypatch.setattr(drawing, "MIN_PER_CLUSTER", 5)
    result = annotate(tmp_path / "cells.h5ad", tmp_path / "out", cluster_key="k", backed=True)
    assert "60 of 300 cells drawn" in Path(result.uris["html"].removeprefix("file://")).read_text()
    assert "X_umap" not in annotated(result).obsm


def test_without_a_umap_the_markers_are_drawn_and_no_cells(cells, tmp_path):
    adata = cells.copy()
    del adata.obsm["X_umap"]
    adata.write_h5ad(tmp_path / "cells.h5ad")
    result = annotate(tmp_path / "cells.h5ad", tmp_path / "out", umap=False)
    assert "figure" not in result.uris
    assert "X_umap" not in annotated(result).obsm
    assert Path(result.uris["html"].removeprefix("file://")).read_text().count("data:image/png") == 1


def test_further_reports_go_where_they_are_asked_for(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("gca_core.annotation.run.report_figures", lambda *_: time.sleep(0.2) or {"label": b"PNG"})
    extra = {name: str(tmp_path / "extra" / name) for name in ("json_report", "summary_csv", "html_report")}
    result = annotate(folder / "cells.h5ad", tmp_path / "out", **extra, request_id="run-7")
    for name, what in (("json_report", "json"), ("summary_csv", "csv"), ("html_report", "html")):
        assert Path(extra[name]).read_bytes() == Path(result.uris[what].removeprefix("file://")).read_bytes()
    assert result.stats.request_id == "run-7"
    told = json.loads(Path(extra["json_report"]).read_text())["stats"]["stage_seconds"]
    assert {"read", "rank", "annotate", "draw"} <= set(told)
    assert told["draw"] >= 0.2


def test_nothing_is_written_where_one_result_cannot_be(folder, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError):
        annotate(folder / "cells.h5ad", tmp_path / "out", html_report=str(tmp_path / "file" / "report.html"))
    assert not (tmp_path / "out").exists()


def test_corrections_from_a_file_are_kept_by_the_annotated_data(folder, reference, tmp_path):
    genes = next(a["markers"] for a in report(reference)["annotations"] if a["cluster"] == "nk")
    correction = Correction(
        cluster="nk",
        genes=tuple(genes[:20]),
        label="mature NK T cell",
        ontology_id="CL:0000814",
        who="ada",
        when="2030-01-31T09:30:00+00:00",
        replaced="natural killer cell",
    )
    elsewhere = correction.model_copy(update={"cluster": "b", "run": "another"})
    here = correction.model_copy(update={"run": "out"})
    uri = str(tmp_path / "corrections.json")
    write_json(uri, Corrections(corrections=(here, elsewhere)))
    first = annotate(folder / "cells.h5ad", tmp_path / "out", corrections=uri, backed=True)
    assert first.stats.overrides == 1
    assert first.labels["mature NK T cell"] == 60
    again = annotate(Path(first.uris["h5ad"].removeprefix("file://")), tmp_path / "again", backed=True)
    assert again.stats.overrides == 1
    assert again.labels == first.labels
