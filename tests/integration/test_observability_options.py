import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def annotate(tmp_path: Path, *before: str, **environment: str) -> subprocess.CompletedProcess[str]:
    table = tmp_path / "lists.csv"
    table.write_text('cluster,markers\n1,"CD3D,CD3E,CD3G,IL7R,TRAC"\n')
    command = [sys.executable, "-m", "gca_core.cli.main", *before, "annotate", str(table)]
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GCA_")}
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**variables, **environment})


def test_the_log_is_json_with_the_request_on_demand_and_stdout_holds_results_alone(tmp_path):
    pytest.importorskip("structlog")
    done = annotate(tmp_path, "--log-format", "json", GCA_REQUEST_ID="nightly-7")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert lines
    assert {line["request_id"] for line in lines} == {"nightly-7"}
    assert done.stdout.startswith("cluster,markers,label")


@pytest.mark.slow
def test_the_text_log_names_a_request_that_was_named(tmp_path):
    done = annotate(tmp_path, GCA_REQUEST_ID="nightly-7")
    assert "[nightly-7] 1 clusters annotated" in " ".join(done.stderr.split())


@pytest.mark.slow
def test_counters_of_a_command_are_left_in_a_file(tmp_path):
    pytest.importorskip("prometheus_client")
    done = annotate(tmp_path, GCA_METRICS_FILE=str(tmp_path / "gca.prom"))
    assert done.returncode == 0, done.stderr
    assert "gca_clusters_annotated_total 1.0" in (tmp_path / "gca.prom").read_text()


@pytest.mark.slow
def test_a_gateway_that_is_away_costs_a_warning_and_not_the_results(tmp_path):
    pytest.importorskip("prometheus_client")
    done = annotate(tmp_path, "--metrics-gateway", "127.0.0.1:1")
    assert done.returncode == 0
    assert done.stdout.startswith("cluster,markers,label")
    assert "are lost" in " ".join(done.stderr.split())
