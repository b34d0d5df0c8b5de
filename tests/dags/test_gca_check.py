from pathlib import Path
from typing import Any

import pytest

from tests.helpers.dag_runs import output, states


def test_a_whole_environment_is_green(run_dag: Any, gca_home: Path) -> None:
    run = run_dag("gca_check", extras=["scanpy", "vae", "haystack", "gcs", "google"])
    assert run.state == "success", states(run)
    assert output(run, "plugin") == [["get_provider_info", "GcaPlugin"]]
    assert "connected to PostgreSQL" in output(run, "atlas")[0]
    assert not list((gca_home / "results").glob("gca-check-*"))


@pytest.mark.slow
def test_each_part_that_lacks_something_is_red_and_says_what(
    run_dag: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("GCA_PROFILE", "prod")
    monkeypatch.setenv("GCA_RESULTS_URI", str(tmp_path / "file" / "below"))
    monkeypatch.setenv("GCA_LLM", "nonsense")
    run = run_dag("gca_check", batch_region="us-east1", gcp_conn_id="nowhere")
    red = {task for task, found in states(run).items() if found == ["failed"]}
    assert red == {"results", "atlas", "model", "batch"}
    told = capfd.readouterr().out
    assert "set GCA_ATLAS_DSN" in told and "provider:model" in told
