"""The demonstration from the installed wheel, away from the repository, and the list of what that environment holds."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from gca_core import __version__
from tests.conftest import REPOSITORY
from tests.release.conftest import BUILD, run

pytestmark = pytest.mark.slow


@pytest.mark.timeout(1800)
def test_the_demo_runs_outside_the_repository(with_extras: Path, tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    script = Path(shutil.copy(REPOSITORY / "scripts" / "demo.py", tmp_path / "scripts"))
    run(with_extras.with_name("gca"), "examples", "copy", tmp_path / "dags", folder=tmp_path)
    said = run(with_extras, script, folder=tmp_path, timeout=1500)
    assert "airflow-provider-gca demo" in said
    for dag_id in ("gca_annotate", "gca_latent", "gca_haystack"):
        summary = json.loads((tmp_path / ".demo" / "home" / "results" / dag_id / "summary.json").read_text())
        assert summary["system"] in said


def test_a_bill_of_materials_names_every_part_with_its_licence(with_extras: Path) -> None:
    bill = BUILD / "sbom.cdx.json"
    run(sys.executable, "-m", "cyclonedx_py", "environment", with_extras, "--output-reproducible", "-o", bill)
    parts = {part["name"]: part for part in json.loads(bill.read_text())["components"]}
    assert {"apache-airflow", "scanpy", "torch", "psycopg"} <= set(parts)
    ours = parts["airflow-provider-gca"]
    assert ours["version"] == __version__ and "Apache-2.0" in json.dumps(ours["licenses"])
