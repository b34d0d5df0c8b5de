"""The cohort DAG: bundled cells with nothing configured, and a broken file among good ones."""

import csv
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anndata as ad
import fsspec
import numpy as np
import pandas as pd
import pytest

from airflow_provider_gca.task_groups.review import CORRECT, LEAVE
from gca_core.annotation.review.summary import CSV_COLUMNS
from gca_core.datasets import pbmc68k_reduced
from gca_core.io import as_path, read_text
from tests.helpers.dag_runs import asset_events, output, states
from tests.helpers.gcs_loopback import Bucket

pytestmark = pytest.mark.slow

BRACES = "{{ 7 * 7 }}.h5ad"


def table(uri: str) -> list[dict[str, str]]:
    return list(csv.DictReader(read_text(uri).splitlines()))


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Two good files, one in a folder of its own, and one that is no h5ad at all."""
    folder = tmp_path / "cohort"
    (folder / "donor 2").mkdir(parents=True)
    cells = pbmc68k_reduced()
    cells[::2].write_h5ad(folder / "a.h5ad")
    cells[1::2].write_h5ad(folder / "donor 2" / "b.h5ad")
    (folder / BRACES).write_text("not cells")
    return folder


@pytest.mark.slow
def test_the_bundled_cells_with_nothing_configured(run_dag: Any, gca_home: Path) -> None:
    run = run_dag("gca_annotate_cohort")
    assert states(run) == {
        "prepare": ["success"],
        "plan": ["success"],
        "annotate": ["success", "success"],
        "join": ["success"],
        "review.find": ["success"],
        "review.shown": ["success"],
        "review.ask": ["skipped"],
        "review.apply": ["success"],
        "judge": ["success"],
    }
    summary = json.loads((gca_home / "results" / "gca_annotate_cohort" / "summary.json").read_text())
    assert (summary["metrics"]["files"], summary["metrics"]["cells"]) == (2, 3611)
    assert "failed" not in summary["metrics"]
    assert set(summary["files"]) == {"csv", "composition", "html", "review_csv", "review_html"}
    assert all(as_path(uri).exists() for uri in summary["files"].values())
    assert [(row["file"], row["status"]) for row in table(summary["files"]["csv"])] == [
        ("ctrl", "annotated"),
        ("stim", "annotated"),
    ]
    assert [instance.rendered_map_index for instance in mapped(run)] == ["ctrl.h5ad", "stim.h5ad"]


def mapped(run: Any) -> list[Any]:
    found = [instance for instance in run.get_task_instances() if instance.task_id == "annotate"]
    return sorted(found, key=lambda instance: instance.map_index)


def test_a_broken_file_is_named_and_the_others_are_there(run_dag: Any, cohort: Path, tmp_path: Path) -> None:
    given = {"input_prefix": str(cohort), "output_uri": str(tmp_path / "out"), "cluster_key": "louvain"}
    run = run_dag("gca_annotate_cohort", label_column="bulk_labels", vocabulary="broad", **given)
    found = states(run)
    assert sorted(found["annotate"]) == ["failed", "success", "success"]
    assert (found["join"], found["judge"], run.state) == (["success"], ["failed"], "failed")
    assert {instance.try_number for instance in mapped(run)} == {1}

    (joined,) = output(run, "join")
    assert len(joined["failed"]) == 1
    assert joined["failed"][0].startswith("7-7")
    rows = table(joined["uris"]["csv"])
    assert tuple(rows[0]) == CSV_COLUMNS
    by_status = {row["status"]: row for row in rows}
    assert by_status["failed"]["input"].endswith("/%7B%7B%207%20%2A%207%20%7D%7D.h5ad")
    assert "log of its task" in by_status["failed"]["note"]
    done = [row for row in rows if row["status"] == "annotated"]
    assert sum(int(row["cells"]) for row in done) == 700
    assert all(0 <= float(row["agreement_related"]) <= 1 for row in done)
    assert all(as_path(row["report"]).exists() for row in done)

    page = read_text(joined["uris"]["html"])
    assert "1 file without a result" in page
    assert joined["failed"][0] in page
    reviewed = table(joined["uris"]["review_csv"])
    assert len(reviewed) == joined["n_flagged"] == sum(int(row["flagged"]) for row in done)
    assert {row["run"] for row in reviewed} <= {row["file"] for row in done}

    results = output(run, "annotate")
    assert len(results) == 2
    assert all("gptca_vocabulary_label" in ad.read_h5ad(as_path(result["uris"]["h5ad"])).obs for result in results)
    assert {event.asset.uri for event in asset_events(run)} == {result["uris"]["h5ad"] for result in results}
    assert sorted(output(run, "annotate", "gca_report_uri")) == sorted(result["uris"]["html"] for result in results)


@pytest.mark.slow
def test_a_reviewer_labels_flagged_clusters_in_the_form(answering: Any, tmp_path: Path) -> None:
    cells = pbmc68k_reduced()[::2].copy()
    # clusters of anything, of which three are flagged
    cells.obs["mixed"] = pd.Categorical(np.random.default_rng(0).integers(0, 8, cells.n_obs).astype(str))
    (tmp_path / "in").mkdir()
    cells.write_h5ad(tmp_path / "in" / "a.h5ad")
    said = [(CORRECT, "naive B cell", "IGHD is high"), (CORRECT, "no such cell", ""), *[(LEAVE, "", "")] * 40]
    run = answering(
        "gca_annotate_cohort",
        *((option, {"label": label, "reason": reason}) for option, label, reason in said),
        input_prefix=str(tmp_path / "in"),
        output_uri=str(tmp_path / "out"),
        cluster_key="mixed",
        review=True,
    )
    assert run.state == "success", states(run)
    (before,), (applied,) = output(run, "join"), output(run, "review.apply")
    assert before["n_flagged"] >= 2 and applied["flagged"] == before["n_flagged"] - 1
    ((folder, count),) = applied["applied"].items()
    assert count == 1 and len(applied["refused"]) == 1 and "no such cell" in applied["refused"][0]
    report = json.loads((tmp_path / "out" / folder / "report.json").read_text())
    (decided,) = [a for a in report["annotations"] if a["override"]]
    assert decided["primary_label"] == "naive B cell"
    assert (decided["override"]["who"], decided["override"]["note"]) == ("mary", "IGHD is high")
    cells = ad.read_h5ad(tmp_path / "out" / folder / "annotated.h5ad")
    assert "naive B cell" in set(cells.obs["gptca_label"])


@pytest.mark.slow
def test_a_cohort_in_a_bucket_stays_there(run_dag: Any, cohort: Path, bucket: Bucket) -> None:
    (cohort / BRACES).unlink()
    fsspec.filesystem("gs").put(str(cohort), "gs://lab/raw", recursive=True)
    given = {"input_prefix": "gs://lab/raw/", "output_uri": "gs://lab/out", "cluster_key": "louvain"}
    run = run_dag("gca_annotate_cohort", **given)
    assert run.state == "success"
    (joined,) = output(run, "join")
    assert all(uri.startswith("gs://lab/out/") for uri in joined["uris"].values())
    rows = table(joined["uris"]["csv"])
    assert [(row["input"].removeprefix("gs://lab/raw/"), row["status"]) for row in rows] == [
        ("a.h5ad", "annotated"),
        ("donor 2/b.h5ad", "annotated"),
    ]
    results = output(run, "annotate")
    assert {event.asset.uri for event in asset_events(run)} == {quote(r["uris"]["h5ad"], safe=":/") for r in results}
    assert not [name for name in bucket.objects if "/." in name]


def test_failures_that_are_tolerated_leave_the_run_green(run_dag: Any, cohort: Path) -> None:
    run = run_dag("gca_annotate_cohort", input_prefix=str(cohort / "{"), max_failed=1, review=True)
    found = states(run)
    assert (found["annotate"], found["review.find"], found["review.ask"]) == (["failed"], ["success"], ["skipped"])
    assert run.state == "success"
    (joined,) = output(run, "join")
    assert (joined["n_files"], joined["n_cells"], joined["n_flagged"]) == (1, 0, 0)


def test_an_empty_prefix_is_refused_before_anything_is_mapped(run_dag: Any, tmp_path: Path) -> None:
    run = run_dag("gca_annotate_cohort", input_prefix=str(tmp_path))
    assert run.state == "failed"
    found = states(run)
    assert found["plan"] == ["failed"]
    assert found["annotate"] == ["upstream_failed"]
    assert found["join"] == ["failed"]
    assert not [result for result in output(run, "annotate") if result]


@pytest.mark.slow
def test_the_annotated_files_of_a_cohort_are_not_annotated_again(run_dag: Any, tmp_path: Path) -> None:
    pbmc68k_reduced()[::4].write_h5ad(tmp_path / "a.h5ad")
    given = {"input_prefix": str(tmp_path), "output_uri": str(tmp_path), "cluster_key": "louvain"}
    for _ in range(2):
        run = run_dag("gca_annotate_cohort", **given)
        assert states(run)["annotate"] == ["success"]
    assert "gptca_label" in ad.read_h5ad(tmp_path / "a" / "annotated.h5ad").obs


def test_more_files_than_airflow_maps_stop_the_plan(
    run_dag: Any, cohort: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__MAX_MAP_LENGTH", "2")
    found = states(run_dag("gca_annotate_cohort", input_prefix=str(cohort)))
    assert (found["prepare"], found["plan"], found["join"]) == (["success"], ["failed"], ["failed"])
    assert not {"success", "failed"} & set(found["annotate"])
