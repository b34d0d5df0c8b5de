import csv
import json
import re
from pathlib import Path

import anndata as ad
import pytest
from pydantic import ValidationError

from gca_core.annotation import AnnotationConfig, annotate_file
from gca_core.annotation.report.page import render_csv, render_html
from gca_core.datasets import pbmc68k_reduced
from gca_core.errors import DataValidationError, GcaError


@pytest.fixture(scope="module")
def pbmc(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pbmc") / "pbmc.h5ad"
    pbmc68k_reduced().write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def result(pbmc):
    return annotate_file(config(pbmc, pbmc.parent / "out", labels_key="bulk_labels"))


def config(source: Path, output: Path, **options) -> AnnotationConfig:
    given = {"cluster_key": "louvain", "tissue": "blood"} | options
    return AnnotationConfig(input_uri=str(source), output_uri=str(output), **given)


def local(result, what: str) -> Path:
    return Path(result.uris[what].removeprefix("file://"))


def test_pbmc_clusters_are_labelled_from_raw_and_every_result_opens(result):
    assert (result.n_cells, result.n_genes, result.n_clusters) == (700, 765, 11)
    adata = ad.read_h5ad(local(result, "h5ad"))
    assert {"gptca_label", "gptca_ontology_id", "gptca_confidence", "gptca_status"} <= set(adata.obs)
    assert "raw" in json.loads(adata.uns["gca_annotation"]["report"])["matrix"]
    assert local(result, "figure").read_bytes().startswith(b"\x89PNG")
    assert len(json.loads(local(result, "json").read_text())["annotations"]) == 11
    rows = list(csv.DictReader(local(result, "csv").read_text().splitlines()))
    assert [row["cluster"] for row in rows] == [str(i) for i in range(11)]
    assert all(row["supporting_markers"] for row in rows)


def test_the_report_loads_nothing_from_elsewhere(result):
    page = local(result, "html").read_text()
    assert "data:image/png;base64," in page
    assert re.findall(r"(?:src|href)\s*=\s*[\"'](?!data:)", page) == []
    assert "bulk_labels" in page


def test_agreement_is_reported_on_the_ontology(result):
    agreement = result.agreement
    assert agreement.unresolved == ()
    assert agreement.n_cells == 700
    assert 0 <= agreement.exact <= agreement.related <= agreement.close <= 1
    by_label = {row.label: row for row in agreement.by_label}
    assert by_label["CD34+"].related == 1.0
    assert by_label["CD56+ NK"].ontology_id == "CL:0000623"


def test_results_are_small_json_and_deterministic(result, pbmc, tmp_path):
    again = annotate_file(config(pbmc, tmp_path / "again", labels_key="bulk_labels"))
    unstable = {"uris", "seconds", "stats"}
    assert again.model_dump(exclude=unstable) == result.model_dump(exclude=unstable)
    assert len(again.model_dump_json()) < 5000
    for what in ("csv", "figure"):
        assert local(again, what).read_bytes() == local(result, what).read_bytes()
    reports = [json.loads(local(each, "json").read_text()) for each in (again, result)]
    assert all(report.pop("stats")["seconds"] > 0 for report in reports)
    assert reports[0] == reports[1]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"cluster_key": "nope"}, r"no cluster column 'nope'.*'louvain'"),
        ({"labels_key": "nope"}, "no label column"),
        ({"labels_key": "phase"}, "Cell Ontology name"),
        ({"layer": "nope"}, "no layer 'nope'"),
        ({"tissue": "moon"}, "'moon'"),
        ({"marker_db": "/nowhere/m.csv"}, "does not exist"),
    ],
)
def test_wrong_options_fail_before_anything_is_written(pbmc, tmp_path, options, match):
    with pytest.raises(GcaError, match=match):
        annotate_file(config(pbmc, tmp_path / "out", **options))
    assert not (tmp_path / "out").exists()


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DataValidationError, match="does not exist"):
        annotate_file(config(tmp_path / "none.h5ad", tmp_path / "out"))


def test_a_file_that_is_no_h5ad_is_refused(tmp_path):
    (tmp_path / "x.h5ad").write_text("not hdf5")
    (tmp_path / "x.txt").write_text("text")
    with pytest.raises(DataValidationError, match="can't be read as h5ad"):
        annotate_file(config(tmp_path / "x.h5ad", tmp_path / "out"))
    with pytest.raises(DataValidationError, match="no file of cells by its name"):
        annotate_file(config(tmp_path / "x.txt", tmp_path / "out"))


def test_a_failed_run_leaves_earlier_results_alone(pbmc, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "report.json").write_text("earlier")
    with pytest.raises(DataValidationError):
        annotate_file(config(pbmc, out, cluster_key="nope"))
    assert [p.name for p in out.iterdir() if p.is_file()] == ["report.json"]
    assert (out / "report.json").read_text() == "earlier"


def test_options_out_of_range_are_refused_at_once():
    with pytest.raises(ValidationError):
        AnnotationConfig(input_uri="a.h5ad", output_uri="o", top_n_markers=1)
    with pytest.raises(ValidationError):
        AnnotationConfig(input_uri="a.h5ad", output_uri="o", unknown_option=1)


def test_text_from_data_is_escaped_in_html_and_csv(simulated):
    from gca_core.annotation import annotate_anndata

    adata = simulated.copy()
    names = {"b": "<script>alert(1)</script>", "nk": "=1+1", "cd14": "a;b,c", "cd16": '"q"', "mega": "$x_{1}$"}
    adata.obs["k"] = adata.obs["truth"].map(names).astype("category")
    report = annotate_anndata(adata, "k")
    page = render_html(report, {"label": b"png"}, title="<b>title</b>")
    assert "<script>" not in page
    assert "<b>title" not in page
    table = list(csv.DictReader(render_csv(report).splitlines()))
    assert {row["cluster"] for row in table} == {*names.values()} - {"=1+1"} | {"'=1+1"}
