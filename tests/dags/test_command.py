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
    assert summary["figures"]["cells"] == 700
