"""Annotations of what lies in a bucket, by the real client of Google Cloud Storage."""

import json
import subprocess
import sys
from pathlib import Path

import anndata as ad
import fsspec
import numpy as np
import pytest

from airflow_provider_gca.operators.annotation import AnnotateAnnDataOperator
from gca_core.annotation import AnnotationConfig, annotate_file
from gca_core.annotation.cohort import find_files, plan_cohort
from gca_core.errors import DataValidationError
from gca_core.io import read_json, read_text


@pytest.fixture
def cells(blood, tmp_path) -> ad.AnnData:
    # coordinates that are there spare the UMAP
    blood.obsm["X_umap"] = np.random.default_rng(0).normal(size=(blood.n_obs, 2))
    blood.write_h5ad(tmp_path / "cells.h5ad")
    return blood


def send(source: Path, uri: str) -> None:
    fsspec.filesystem("gs").put(str(source), uri, recursive=source.is_dir())


def without_run(report: dict) -> dict:
    return {name: value for name, value in report.items() if name not in {"stats", "versions"}}


@pytest.mark.parametrize("kind", ["h5ad", pytest.param("zarr", marks=pytest.mark.slow)])
def test_a_file_in_a_bucket_is_annotated_into_the_bucket_as_on_this_machine(bucket, cells, tmp_path, kind):
    source = tmp_path / f"cells.{kind}"
    if kind == "zarr":
        cells.write_zarr(source)
    send(source, f"gs://lab/raw/cells.{kind}")
    here, there = (
        annotate_file(AnnotationConfig(input_uri=uri, output_uri=out, cluster_key="truth", tissue="blood"))
        for uri, out in ((str(source), str(tmp_path / "out")), (f"gs://lab/raw/cells.{kind}", "gs://lab/out"))
    )
    assert set(there.uris) == set(here.uris)
    assert all(uri.startswith("gs://lab/out/") for uri in there.uris.values())
    assert without_run(read_json(there.uris["json"])) == without_run(read_json(here.uris["json"]))
    assert "<html" in read_text(there.uris["html"])
    fsspec.filesystem("gs").get(there.uris[kind], str(tmp_path / f"back.{kind}"), recursive=kind == "zarr")
    back = (ad.read_zarr if kind == "zarr" else ad.read_h5ad)(tmp_path / f"back.{kind}")
    assert set(back.obs["gptca_label"][back.obs["truth"] == "b"]) == {"B cell"}
    if kind == "zarr":
        written = {
            name.split(".zarr/")[1]: at for name, (_, at) in bucket.objects.items() if "out/annotated.zarr" in name
        }
        top = [at for name, at in written.items() if "/" not in name]
        assert min(top) > max(at for name, at in written.items() if "/" in name)
    # nothing but the results, and no lock or part of one
    left = {name.removeprefix("out/").split("/")[0] for name in bucket.objects if name.startswith("out/")}
    assert left == {uri.rsplit("/", 1)[-1] for uri in there.uris.values()}


@pytest.mark.slow
def test_a_store_that_can_not_be_sent_whole_leaves_the_one_before(bucket, cells, tmp_path):
    cells.write_zarr(tmp_path / "cells.zarr")
    config = AnnotationConfig(
        input_uri=str(tmp_path / "cells.zarr"), output_uri="gs://lab/out", cluster_key="truth", tissue="blood"
    )
    annotate_file(config)
    before = dict(bucket.objects)
    bucket.forbidden = "obs/gptca_label/codes/0"
    with pytest.raises(OSError, match="forbidden"):
        annotate_file(config)
    # files that were on their way may still arrive under the hidden name
    assert {name: what for name, what in bucket.objects.items() if "/.gca-" not in name} == before


def test_the_operator_annotates_from_bucket_to_bucket(bucket, cells, tmp_path):
    send(tmp_path / "cells.h5ad", "gs://lab/raw/my cells.h5ad")
    (tmp_path / "mine.csv").write_text("label,ontology_id\nLymphoid,CL:0000542\n")
    send(tmp_path / "mine.csv", "gs://lab/names.csv")
    task = AnnotateAnnDataOperator(
        task_id="annotate",
        input_uri="gs://lab/raw/my cells.h5ad",
        output_uri="gs://lab/out",
        cluster_key="truth",
        tissue="blood",
        vocabulary="gs://lab/names.csv",
    )
    result = task.execute({})
    report = read_json(result["uris"]["json"])
    assert {a["cluster"]: a["vocabulary_label"] for a in report["annotations"]}["nk"] == "Lymphoid"
    assert json.dumps(result)
    assert "out/report.html" in bucket.objects


def test_what_a_bucket_lacks_is_named_before_any_work(bucket):
    config = AnnotationConfig(input_uri="gs://lab/raw/none.h5ad", output_uri="gs://lab/out")
    with pytest.raises(DataValidationError, match=r"gs://lab/raw/none\.h5ad"):
        annotate_file(config)
    assert not bucket.objects


def test_a_cohort_is_found_below_a_prefix_of_a_bucket(bucket, cells, tmp_path):
    for name in ("raw/a.h5ad", "raw/deep/b.h5ad", "other/c.h5ad"):
        send(tmp_path / "cells.h5ad", f"gs://lab/{name}")
    assert find_files("gs://lab/raw/") == ["gs://lab/raw/a.h5ad", "gs://lab/raw/deep/b.h5ad"]
    planned = plan_cohort("gs://lab/raw/", "gs://lab/out")
    assert [file.input_uri for file in planned] == ["gs://lab/raw/a.h5ad", "gs://lab/raw/deep/b.h5ad"]
    assert len({file.output_uri for file in planned}) == 2
    assert all(file.output_uri == f"gs://lab/out/{file.name}" for file in planned)


@pytest.mark.parametrize("place", ["input_uri", "output_uri"])
def test_a_bucket_that_lets_nobody_in_asks_for_credentials(bucket, cells, tmp_path, place):
    bucket.closed = True
    places = {"input_uri": str(tmp_path / "cells.h5ad"), "output_uri": str(tmp_path / "out"), place: "gs://lab/x.h5ad"}
    with pytest.raises(ConnectionError, match=r"gs://lab/x.h5ad.* no access.*; check .* credentials"):
        annotate_file(AnnotationConfig(**places, cluster_key="truth"))
    with pytest.raises(ConnectionError, match="credentials"):
        find_files("gs://lab/x")


def test_without_the_client_the_command_says_what_to_install(tmp_path):
    code = "import sys; sys.modules['gcsfs'] = None; from gca_core.cli.main import main; main()"
    command = [sys.executable, "-c", code, "scanpy", "annotate", "gs://lab/in.h5ad", "-o", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "airflow-provider-gca[gcs]" in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
