import json
from pathlib import Path
from typing import Any

from gca_core.io import as_path
from tests.dags.conftest import output, states


def test_trains_and_scores_six_coarse_types_beside_its_baselines(run_dag: Any, gca_home: Path) -> None:
    run = run_dag("gca_latent")
    assert states(run) == {"prepare": ["success"], "train": ["success"], "summary": ["success"]}
    summary = json.loads((gca_home / "results" / "gca_latent" / "summary.json").read_text())
    figures = summary["figures"]
    assert {name.split()[1] for name in figures} == {"latent", "pca", "genes"}
    assert max(value for name, value in figures.items() if " latent " in name) >= 0.85
    assert all(as_path(uri).exists() for uri in summary["files"].values())
    (result,) = output(run, "train")
    assert len(json.dumps(result)) < 20_000
    assert output(run, "train", "gca_report_link") == [result["uris"]["report"]]
