import json
from pathlib import Path
from typing import Any

import pytest

from gca_core.io import as_path
from tests.helpers.dag_runs import asset_events, output, states

TASKS = ("prepare", "train", "good_enough", "transfer", "summary")


def summary_of(home: Path) -> Any:
    return json.loads((home / "results" / "gca_latent" / "summary.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_trains_scores_and_labels_new_cells(run_dag: Any, gca_home: Path) -> None:
    run = run_dag("gca_latent")
    assert states(run) == {name: ["success"] for name in TASKS}
    summary = summary_of(gca_home)
    scores = {name: value for name, value in summary["metrics"].items() if name.startswith("macro-F1")}
    assert {name.split()[1] for name in scores} == {"latent", "pca", "genes"}
    assert max(value for name, value in scores.items() if " latent " in name) >= 0.85
    assert summary["metrics"]["new cells macro-F1"] >= 0.7
    assert all(as_path(uri).exists() for uri in summary["files"].values())
    (result,) = output(run, "train")
    assert len(json.dumps(result)) < 20_000
    assert output(run, "train", "gca_report_uri") == [result["uris"]["report"]]
    assert output(run, "train", "gca_figure_uri") == [result["uris"]["umap"]]
    events = {event.extra["artefact"]: event for event in asset_events(run)}
    assert {name: event.asset.uri for name, event in events.items()} == {
        name: result["uris"][name] for name in ("checkpoint", "latent", "metrics")
    }
    assert events["checkpoint"].extra["metrics"] == result["metrics"]
    (transferred,) = output(run, "transfer")
    assert transferred["n_labelled"] + transferred["n_abstained"] == transferred["n_cells"] == 100


@pytest.mark.slow
def test_below_the_threshold_nothing_is_labelled(run_dag: Any, gca_home: Path) -> None:
    run = run_dag("gca_latent", epochs=1, min_macro_f1=1.0)
    expected = {name: ["success"] for name in TASKS} | {"transfer": ["skipped"]}
    assert states(run) == expected
    assert "new cells labelled" not in summary_of(gca_home)["metrics"]


@pytest.mark.parametrize("conf", [{"min_macro_f1": 2}, {"min_probability": "often"}])
def test_a_wrong_threshold_is_refused_before_anything_runs(run_dag: Any, conf: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(conf))):
        run_dag("gca_latent", **conf)
