import json
import os
import subprocess
from pathlib import Path

import pytest


@pytest.mark.slow
def test_airflow_dags_test_runs_an_example_in_a_process_of_its_own(airflow_home: Path, tmp_path: Path) -> None:
    environment = os.environ | {"GCA_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        ["airflow", "dags", "test", "gca_annotate"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "[DAG TEST] end task task_id=summary" in done.stdout + done.stderr
    summary = json.loads((tmp_path / "home" / "results" / "gca_annotate" / "summary.json").read_text())
    assert summary["metrics"]["cells"] == 700


@pytest.mark.slow
@pytest.mark.usefixtures("airflow_home")
def test_airflow_shows_the_provider_and_its_connection_types() -> None:
    shown = subprocess.run(
        ["airflow", "providers", "get", "airflow-provider-gca", "--full", "--output", "json"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert "AtlasHook" in shown.stdout
    hooks = subprocess.run(
        ["airflow", "providers", "hooks", "--output", "json"], capture_output=True, text=True, check=True, timeout=120
    )
    listed = {row["connection_type"]: row for row in json.loads(hooks.stdout)}
    assert listed["gca_atlas"]["class"] == "airflow_provider_gca.hooks.atlas.AtlasHook"
    assert listed["gca_llm"]["conn_id_attribute_name"] == "gca_llm_conn_id"
