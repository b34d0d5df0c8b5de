"""Wrong input stops a task at once, with what the core says about it, and leaves nothing behind."""

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from airflow_provider_gca.operators.annotation import AnnotateAnnDataOperator
from airflow_provider_gca.operators.atlas import IngestAtlasOperator
from airflow_provider_gca.operators.latent import TrainVAEOperator
from airflow_provider_gca.task_groups.haystack import haystack_loop
from airflow_provider_gca.task_groups.loop import steps
from airflow_provider_gca.utils.failures import AirflowException, AirflowFailException
from gca_core.datasets import kang2018_mini_path, pbmc68k_reduced
from gca_core.errors import ConfigurationError
from tests.helpers.dag_runs import understand

pytestmark = pytest.mark.usefixtures("airflow_home")


@pytest.fixture(scope="module")
def pbmc(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("pbmc") / "pbmc.h5ad"
    pbmc68k_reduced().write_h5ad(path)
    return path.as_uri()


@pytest.fixture
def scaled(tmp_path: Path) -> str:
    values = np.random.default_rng(0).normal(size=(80, 50)).astype(np.float32)
    obs = pd.DataFrame({"cluster": ["a", "b"] * 40}, index=[f"c{i}" for i in range(80)])
    path = tmp_path / "scaled.h5ad"
    ad.AnnData(values, obs=obs, var=pd.DataFrame(index=[f"GENE{i}" for i in range(50)])).write_h5ad(path)
    return path.as_uri()


def annotate(folder: Path, **fields: Any) -> Any:
    return AnnotateAnnDataOperator(task_id="annotate", output_uri=folder.as_uri(), **fields).execute({})


def train(folder: Path, **fields: Any) -> Any:
    return TrainVAEOperator(task_id="train", output_uri=folder.as_uri(), **fields).execute({})


def ingest(input_uri: str, **fields: Any) -> Any:
    columns = {"perturbation_column": "condition", "control_value": "ctrl", "cell_type_column": "cell_type"}
    return IngestAtlasOperator(
        **{"task_id": "ingest", "input_uri": input_uri, "dataset": "wrong", **columns, **fields}
    ).execute({})


def test_a_missing_file(tmp_path: Path, gca_home: Path) -> None:
    missing, folder = (tmp_path / "nowhere.h5ad").as_uri(), tmp_path / "out"
    for run in (lambda: annotate(folder, input_uri=missing), lambda: train(folder, input_uri=missing)):
        with pytest.raises(AirflowFailException, match=r"nowhere\.h5ad' does not exist; check the path"):
            run()
    with pytest.raises(AirflowFailException, match=r"nowhere\.h5ad' does not exist; check the path"):
        ingest(missing)
    assert not folder.exists()


def test_a_cluster_column_that_is_not_there(tmp_path: Path, pbmc: str) -> None:
    with pytest.raises(AirflowFailException, match="louvain") as raised:
        annotate(tmp_path / "out", input_uri=pbmc, cluster_key="leiden")
    assert "leiden" in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_scaled_values_where_others_are_needed(tmp_path: Path, scaled: str, gca_home: Path) -> None:
    folder = tmp_path / "out"
    with pytest.raises(AirflowFailException, match="scaled"):
        annotate(folder, input_uri=scaled, cluster_key="cluster")
    with pytest.raises(AirflowFailException, match="scaled"):
        train(folder, input_uri=scaled)
    assert not folder.exists()


def test_an_unknown_cell_type(gca_home: Path) -> None:
    with pytest.raises(AirflowFailException, match="'unicorn cells' is not known to the Cell Ontology; did you mean"):
        understand("How would unicorn cells respond to interferon beta?")


def test_a_database_that_is_down_fails_with_advice_and_may_be_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GCA_ATLAS_DSN", "postgresql://u:secret@127.0.0.1:9/gca")
    question = "How would B cells respond to interferon beta?"
    runs = (
        lambda: ingest(kang2018_mini_path().as_uri()),
        lambda: understand(question),
    )
    for run in runs:
        with pytest.raises(
            AirflowException, match=r"can't be reached as u at 127\.0\.0\.1 port 9.*check host"
        ) as raised:
            run()
        assert not isinstance(raised.value, AirflowFailException)
        assert "secret" not in str(raised.value)


def test_prod_without_a_database_is_not_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GCA_PROFILE", "prod")
    with pytest.raises(AirflowFailException, match="GCA_ATLAS_DSN"):
        ingest(kang2018_mini_path().as_uri())


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: AnnotateAnnDataOperator(task_id="t", input_uri="", output_uri="x"), "input_uri has to be a text"),
        (lambda: TrainVAEOperator(task_id="t", input_uri="a", output_uri="b", config={"epoch": 3}), "epochs"),
        (lambda: TrainVAEOperator(task_id="t", input_uri="a", output_uri="b", epochs=0), "epochs: Input"),
        (
            lambda: IngestAtlasOperator(
                task_id="t",
                input_uri="a",
                dataset="",
                perturbation_column="p",
                control_value="c",
                cell_type_column="t",
            ),
            "dataset has to be a text",
        ),
        (lambda: haystack_loop(question="?", iterations=11), "from 1 to 10, found 11"),
        (lambda: haystack_loop(question="?", iterations=2, max_iterations=3), "built for 1 to 2 iterations"),
        (lambda: haystack_loop(question=" "), "question has to be a text"),
        (lambda: haystack_loop(question="?", cell_type="B cell", perturbation="IL-4"), "and not both"),
        (lambda: haystack_loop(cell_type="B cell", kind="knockout"), "a cell_type and a perturbation"),
        (lambda: haystack_loop(question="?", config={"max_iterations": 2}), "an argument of its own"),
        (lambda: haystack_loop(question="?", config={"seed": -1, "plateau_window": "{{ n }}"}), "haystack_loop: seed"),
        (lambda: haystack_loop(question="?", config={"threshold": 7}), "threshold: Extra inputs are not permitted"),
    ],
)
def test_a_wrong_literal_is_refused_when_the_dag_is_built(make: Any, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        make()


def test_a_rendered_value_is_checked_when_the_task_runs(tmp_path: Path, pbmc: str) -> None:
    task = TrainVAEOperator(task_id="t", input_uri=pbmc, output_uri=str(tmp_path), epochs="{{ n }}")
    task.epochs = "many"
    with pytest.raises(AirflowFailException, match="not valid: epochs: Input should be a valid integer"):
        task.execute({})


@pytest.mark.parametrize(("given", "expected"), [(None, 3), ("None", 3), ("", 3), ("2", 2), (1, 1)])
def test_a_runs_bound_lies_within_that_of_the_dag(given: Any, expected: int) -> None:
    assert steps.checked_bound(given, 3) == expected


@pytest.mark.parametrize("given", ["4", 0, "-1", "two", "1.5"])
def test_a_bound_beyond_that_of_the_dag_is_refused(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="built for 1 to 3 iterations"):
        steps.checked_bound(given, 3)


def test_results_are_matched_by_candidate_since_missing_ones_shift_places() -> None:
    def job(*names: str) -> dict[str, Any]:
        return {"requests": [{"candidate_id": name, "backend": "shift"} for name in names]}

    answer = {"candidate_id": "c3", "status": "succeeded", "backend": "shift"}
    rows = steps.aligned([job("c1", "c2"), job("c3")], [[answer]])
    assert [(row["candidate_id"], row["status"]) for row in rows] == [
        ("c1", "failed"),
        ("c2", "failed"),
        ("c3", "succeeded"),
    ]
    assert "see its log" in rows[0]["error"]
