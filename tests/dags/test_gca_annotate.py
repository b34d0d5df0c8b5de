import json
from pathlib import Path
from typing import Any

import anndata as ad
import pytest

from gca_core.io import as_path
from tests.helpers.dag_runs import output, states


@pytest.mark.slow
def test_annotates_the_bundled_cells_and_says_how_well(run_dag: Any, gca_home: Path) -> None:
    run = run_dag("gca_annotate")
    assert states(run) == {"prepare": ["success"], "annotate": ["success"], "summary": ["success"]}

    summary = json.loads((gca_home / "results" / "gca_annotate" / "summary.json").read_text())
    assert set(summary) == {"system", "ran_on", "metrics", "seconds", "files"}
    assert summary["seconds"] > 0
    agreement = {name: value for name, value in summary["metrics"].items() if name.startswith("agreement")}
    assert agreement
    assert all(0 <= value <= 1 for value in agreement.values())
    assert all(as_path(uri).exists() for uri in summary["files"].values())

    (result,) = output(run, "annotate")
    assert len(json.dumps(result)) < 20_000
    labelled = ad.read_h5ad(as_path(result["uris"]["h5ad"]))
    assert labelled.n_obs == 700
    assert {"gptca_label", "gptca_ontology_id", "gptca_confidence"} <= set(labelled.obs.columns)
    assert output(run, "annotate", "gca_report_uri") == [result["uris"]["html"]]
    (link,) = output(run, "annotate", "gca_report_link")
    assert link.startswith("/gca/results?dag_id=gca_annotate&") and link.endswith("map_index=-1&kind=report")


def test_a_missing_file_fails_at_once_and_says_so(run_dag: Any, tmp_path: Path) -> None:
    run = run_dag("gca_annotate", input_uri=str(tmp_path / "nowhere.h5ad"))
    assert run.state == "failed"
    assert states(run)["annotate"] == ["failed"]
    assert states(run)["summary"] == ["upstream_failed"]
    (instance,) = (ti for ti in run.get_task_instances() if ti.task_id == "annotate")
    assert instance.try_number == 1
