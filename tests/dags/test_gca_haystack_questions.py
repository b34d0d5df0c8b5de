"""Many questions in one DAG run: a bad one among good ones, and a budget for all."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from gca_core.io import read_text
from tests.helpers.dag_runs import output, states


@pytest.mark.slow
def test_the_bundled_cells_within_a_budget_and_a_bad_question_among_them(
    run_dag: Any, gca_home: Path, tmp_path: Path
) -> None:
    bare = run_dag("gca_haystack_batch", max_iterations=1, max_predictions=2)
    assert bare.state == "success", states(bare)
    rows = list(csv.DictReader(read_text(output(bare, "join")[0]["uris"]["csv"]).splitlines()))
    assert [(row["id"], row["verdict"]) for row in rows[1:]] == [("q2", "measured"), ("q3", "measured")]
    assert float(rows[0]["score"]) > 1 and 1 <= int(rows[0]["predictions"]) <= 2
    summary = json.loads((gca_home / "results" / "gca_haystack_batch" / "summary.json").read_text())
    assert (summary["metrics"]["questions"], summary["metrics"]["failed"]) == (3, 0)

    dataset = output(bare, "plan")[0][0]["dataset"]
    listed = [{"question": "What is the meaning of life?"}, {"question": rows[1]["question"], "dataset": dataset}]
    (tmp_path / "list.json").write_text(json.dumps(listed))
    mixed = run_dag("gca_haystack_batch", questions_uri=str(tmp_path / "list.json"), max_failed=1)
    assert mixed.state == "success", states(mixed)
    assert sorted(states(mixed)["ask"]) == ["failed", "success"]
    bad, good = csv.DictReader(read_text(output(mixed, "join")[0]["uris"]["csv"]).splitlines())
    assert (bad["status"], good["verdict"]) == ("failed", "measured") and "is not known" in bad["error"]
