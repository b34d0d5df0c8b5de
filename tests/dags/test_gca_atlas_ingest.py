import json
from pathlib import Path
from typing import Any

import pytest

from gca_core.atlas import open_atlas
from gca_core.config import load_settings
from gca_core.datasets import kang2018_mini, kang2018_mini_path
from gca_core.io import as_path
from tests.helpers.dag_runs import output, states

COLUMNS = {
    "perturbation_column": "condition",
    "control_value": "ctrl",
    "perturbation_names": {"stim": "interferon beta"},
    "cell_type_column": "cell_type",
}


def test_builds_the_demo_atlas_with_nothing_configured(run_dag: Any, gca_home: Path) -> None:
    run = run_dag("gca_atlas_ingest")
    assert states(run) == {"choose": ["success"], "ingest": ["success"], "check": ["success"]}
    (report,) = output(run, "ingest")
    labelled = int(kang2018_mini().obs["cell_type"].notna().sum())
    assert (report["n_cells"], report["n_groups"], report["n_groups_without_control"]) == (labelled, 16, 0)
    assert report["n_matched"] == {"type": 8}

    summary = json.loads((gca_home / "results" / "gca_atlas_ingest" / "summary.json").read_text())
    assert summary["metrics"]["cells left out"] == report["n_cells_read"] - labelled > 0
    assert "monocyte" in summary["metrics"]["nearest to 'interferon beta in monocytes'"]
    assert all(as_path(uri).exists() for uri in summary["files"].values())
    atlas = open_atlas(load_settings(home=gca_home))
    assert "interferon beta" in atlas.perturbations("kang2018-mini")


def test_files_are_mapped_and_one_that_fails_leaves_the_others(run_dag: Any, gca_home: Path, tmp_path: Path) -> None:
    few = tmp_path / "few.h5ad"
    kang2018_mini()[::10].copy().write_h5ad(few)
    files = [
        {"input_uri": kang2018_mini_path().as_uri(), "dataset": "mapped", **COLUMNS},
        {"input_uri": few.as_uri(), "dataset": "few", **COLUMNS},
        {"input_uri": str(tmp_path / "nowhere.h5ad"), "dataset": "gone", **COLUMNS},
    ]
    run = run_dag("gca_atlas_ingest", files=files)
    assert sorted(states(run)["ingest"]) == ["failed", "success", "success"]
    assert states(run)["check"] == ["upstream_failed"]
    names = {info.dataset for info in open_atlas(load_settings(home=gca_home)).datasets()}
    assert {"mapped", "few"} <= names
    assert "gone" not in names


@pytest.mark.parametrize("files", [[{"dataset": "no file"}], [{"input_uri": "x", "dataset": "y", "preset": "other"}]])
def test_files_that_say_too_little_are_refused_before_anything_runs(run_dag: Any, files: Any) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    with pytest.raises(ParamValidationError):
        run_dag("gca_atlas_ingest", files=files)
