from types import SimpleNamespace
from typing import Any

import pytest
from airflow.models.taskinstancekey import TaskInstanceKey

from airflow_provider_gca.operators.latent import TrainVAEOperator, TransferLabelsOperator
from airflow_provider_gca.utils.failures import AirflowFailException
from airflow_provider_gca.utils.results import FigureLink
from gca_core.errors import ConfigurationError, DataValidationError

PLACES = {"task_id": "t", "input_uri": "in.h5ad", "output_uri": "out"}
RESULT = {
    "model": "vae-nb",
    "metrics": {"latent_knn_macro_f1": 0.9},
    "uris": {"report": "file:///r.html", "umap": "gs://b/u.png", "checkpoint": "file:///model", "metrics": "file:///m"},
}
TRANSFERRED = {
    "n_cells": 2,
    "n_labelled": 1,
    "n_abstained": 1,
    "metrics": {},
    "uris": {"labels": "file:///labels.csv"},
}


def asked_of(monkeypatch: pytest.MonkeyPatch, function: str, result: dict[str, Any]) -> list[Any]:
    """The configurations that a function of the core was called with; it returns ``result`` without any work."""
    asked: list[Any] = []

    def called(config: Any) -> dict[str, Any]:
        asked.append(config)
        return result

    monkeypatch.setattr(function, called)
    return asked


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    return asked_of(monkeypatch, "gca_core.latent.train.run_training", RESULT)


@pytest.fixture
def transferred(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    return asked_of(monkeypatch, "gca_core.latent.transfer.labels.transfer_labels", TRANSFERRED)


class Events(dict[Any, list[tuple[str, Any]]]):
    """Stands for the outlet events of a task's context."""

    def __missing__(self, key: Any) -> Any:
        rows: list[tuple[str, Any]] = []
        self[key] = rows
        rows_add = SimpleNamespace(add=lambda asset, extra: rows.append((asset.uri, extra)))
        self.setdefault("rows", rows)
        return rows_add


def test_an_example_is_a_configuration_and_arguments_win_over_it(trained: list[Any]) -> None:
    operator = TrainVAEOperator(**PLACES, config="pbmc68k_reduced", epochs="7")
    assert operator.execute({}) == RESULT
    (config,) = trained
    assert (config.recover_counts, config.labels_key, config.epochs) == (True, "bulk_labels", 7)
    operator = TrainVAEOperator(**PLACES, config="pbmc68k_reduced", recover_counts=False, labels_key="louvain")
    operator.label_map = {"a": "b"}
    operator.execute({})
    assert (trained[1].recover_counts, trained[1].labels_key, trained[1].label_map) == (False, "louvain", {"a": "b"})


def test_a_mapping_is_a_configuration_below_the_environment(trained, monkeypatch):
    monkeypatch.setenv("GCA_VAE__SEED", "5")
    monkeypatch.setenv("GCA_VAE__EPOCHS", "5")
    TrainVAEOperator(**PLACES, config={"seed": 3, "epochs": 3, "latent_dim": 3}, epochs=4).execute({})
    assert (trained[0].seed, trained[0].epochs, trained[0].latent_dim) == (5, 4, 3)


def test_the_machine_profile_of_the_worker_is_used(trained, monkeypatch, tmp_path):
    (tmp_path / "machine.yml").write_text("annotation_threads: 2\n", encoding="utf-8")
    monkeypatch.setenv("GCA_MACHINE_PROFILE", str(tmp_path / "machine.yml"))
    TrainVAEOperator(**PLACES).execute({})
    assert trained[0].threads == 2


def test_none_that_a_template_rendered_counts_as_not_given(trained: list[Any]) -> None:
    operator = TrainVAEOperator(**PLACES, config="{{ params.config }}", labels_key="{{ params.label }}")
    operator.config, operator.labels_key = "None", "None"
    operator.execute({})
    assert trained[0].labels_key is None


@pytest.mark.parametrize(
    ("operator", "options", "message"),
    [
        (TrainVAEOperator, {"epochs": 0}, "epochs: "),
        (TrainVAEOperator, {"config": {"epochs": 0}}, "epochs: "),
        (TrainVAEOperator, {"config": {"latentdim": 3}}, "did you mean 'latent_dim'"),
        (TrainVAEOperator, {"label_map": {"a": "b"}}, "labels_key is not"),
        (TransferLabelsOperator, {"run_uri": "run", "min_probability": 1.5}, "min_probability: "),
        (TransferLabelsOperator, {"run_uri": "run", "n_neighbors": 0}, "n_neighbors: "),
    ],
)
def test_wrong_options_are_refused_when_the_dag_is_parsed(operator: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        operator(**PLACES, **options)


def test_a_wrong_rendered_value_fails_the_task_for_good(trained: list[Any]) -> None:
    operator = TrainVAEOperator(**PLACES, epochs="{{ params.epochs }}")
    operator.epochs = "many"
    with pytest.raises(AirflowFailException, match="epochs: "):
        operator.execute({})
    assert not trained


def test_artefacts_are_asset_events_under_the_alias(trained: list[Any]) -> None:
    operator = TrainVAEOperator(**PLACES, asset_alias="models")
    assert [outlet.name for outlet in operator.outlets] == ["models"]
    events = Events()
    operator.execute({"outlet_events": events})
    assert [(uri, extra["artefact"]) for uri, extra in events["rows"]] == [
        ("file:///model", "checkpoint"),
        ("file:///m", "metrics"),
    ]
    assert all(extra["metrics"] == RESULT["metrics"] for _, extra in events["rows"])
    assert TrainVAEOperator(**PLACES).outlets == []


def test_the_figure_has_a_link_to_the_page_where_that_may_show_it(trained, monkeypatch) -> None:
    operator, link = TrainVAEOperator(**PLACES), FigureLink()
    key = TaskInstanceKey("d", "train", "manual__2026-11-29T00:00:00+00:00", 1, -1)
    assert link.get_link(operator, ti_key=key) == ""
    operator.execute({})
    assert link.get_link(operator, ti_key=key) == "https://storage.cloud.google.com/b/u.png"
    monkeypatch.setenv("GCA_PAGE_FOLDERS", "/elsewhere, gs://b")
    where = "dag_id=d&dag_run_id=manual__2026-11-29T00%3A00%3A00%2B00%3A00&task_id=train&map_index=-1&kind=figure"
    assert link.get_link(operator, ti_key=key) == f"/gca/results?{where}"
    assert "Figure" in {link.name for link in operator.operator_extra_links}


def test_new_cells_are_labelled_as_the_arguments_say(transferred: list[Any]) -> None:
    operator = TransferLabelsOperator(
        **PLACES,
        run_uri="run",
        min_probability="0.7",
        recover_counts="true",
        n_neighbors="9",
        counts_layer="raw",
        asset_alias="labels",
    )
    events = Events()
    assert operator.execute({"outlet_events": events}) == TRANSFERRED
    (config,) = transferred
    assert (config.run_uri, config.min_probability, config.recover_counts) == ("run", 0.7, True)
    assert (config.n_neighbors, config.counts_layer, config.labels_key) == (9, "raw", None)
    ((uri, extra),) = events["rows"]
    assert (uri, extra["artefact"], extra["n_abstained"]) == ("file:///labels.csv", "labels", 1)


@pytest.mark.parametrize("field", ["input_uri", "run_uri", "output_uri"])
def test_a_transfer_needs_its_places(field: str) -> None:
    with pytest.raises(ConfigurationError, match=field):
        TransferLabelsOperator(**{**PLACES, "run_uri": "run", field: " "})


def test_bad_input_of_a_transfer_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    import gca_core.latent.transfer.labels

    def refuse(config: Any) -> Any:
        raise DataValidationError("no such run")

    monkeypatch.setattr(gca_core.latent.transfer.labels, "transfer_labels", refuse)
    with pytest.raises(AirflowFailException, match="no such run"):
        TransferLabelsOperator(**PLACES, run_uri="run").execute({})
