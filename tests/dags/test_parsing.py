from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY

EXAMPLES = (
    "gca_annotate",
    "gca_annotate_cohort",
    "gca_atlas_ingest",
    "gca_check",
    "gca_haystack",
    "gca_haystack_ask",
    "gca_haystack_batch",
    "gca_latent",
)


def test_every_example_parses(dag_bag: Any) -> None:
    assert dag_bag.import_errors == {}
    assert sorted(dag_bag.dags) == sorted(EXAMPLES)
    assert {Path(dag.fileloc).stem: dag.dag_id for dag in dag_bag.dags.values()} == {name: name for name in EXAMPLES}


@pytest.mark.parametrize("dag_id", EXAMPLES)
def test_an_example_runs_on_demand_only_and_explains_itself(dag_bag: Any, dag_id: str) -> None:
    dag = dag_bag.dags[dag_id]
    assert dag.schedule is None
    assert not dag.catchup
    assert "gca" in dag.tags
    assert dag.doc_md
    for name in dag.params:
        assert dag.params.get_param(name).description, name


@pytest.mark.parametrize("dag_id", EXAMPLES)
def test_an_example_holds_a_marked_snippet_for_the_documentation(dag_id: str) -> None:
    text = (REPOSITORY / "dags" / f"{dag_id}.py").read_text()
    started = [line.split("[START ")[1] for line in text.splitlines() if "# [START " in line]
    assert started
    assert started == [line.split("[END ")[1] for line in text.splitlines() if "# [END " in line]


def test_the_loop_is_unrolled_and_nothing_is_mapped_inside_a_mapped_group(dag_bag: Any) -> None:
    dag = dag_bag.dags["gca_haystack"]
    groups = sorted(name for name in dag.task_group_dict if name and name.startswith("haystack.iteration_"))
    assert groups == [f"haystack.iteration_{index}" for index in range(3)]
    mapped = {task.task_id.rpartition(".")[2] for task in dag.tasks if task.is_mapped}
    assert mapped == {"infer", "evaluate"}
    assert [task.task_id for task in dag.tasks if task.is_teardown] == ["haystack.cancel_leftovers"]
