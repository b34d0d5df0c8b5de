"""The operator in a DAG run, with a model behind a connection: a chat server on this machine that keeps what it got."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_gca.operators.annotation import AnnotateAnnDataOperator
from gca_core.io import as_path
from tests.helpers.blood import MIXTURE
from tests.helpers.dag_runs import asset_events, output, states, stored
from tests.helpers.llm_cells import TABLE, blood_markers, simulated_blood
from tests.helpers.llm_loopback import LoopbackServer, name_by_markers, say

pytestmark = pytest.mark.slow

SECRET = "sk-loopback-5f21c9"


@pytest.fixture
def cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Simulated blood, with a marker table and a cache of its own."""
    (tmp_path / "markers.csv").write_text(TABLE)
    simulated_blood().write_h5ad(tmp_path / "cells.h5ad")
    monkeypatch.setenv("GCA_MARKER_DB_PATH", str(tmp_path / "markers.csv"))
    monkeypatch.setenv("GCA_CACHE_DIR", str(tmp_path / "cache"))
    return (tmp_path / "cells.h5ad").as_uri()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackServer]:
    """A model behind the connection ``loopback``."""
    name = name_by_markers(blood_markers(), MIXTURE.values())
    with LoopbackServer(lambda request, _: say(name(request))).running() as found:
        extra = {"provider": "openai-compatible", "model": "small", "base_url": found.url}
        connection = {"conn_type": "gca_llm", "password": SECRET, "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_LOOPBACK", json.dumps(connection))
        yield found


def test_the_model_of_a_connection_is_asked_and_its_key_goes_nowhere_else(run_dag, cells, server, caplog, capfd):
    caplog.set_level("DEBUG")
    # it tells of every instruction that it compiles
    caplog.set_level("WARNING", logger="numba")
    run = run_dag("gca_annotate", input_uri=cells, cluster_key="truth", tissue=None, gca_llm_conn_id="loopback")
    assert run.state == "success"
    assert {request.authorization for request in server.requests} == {f"Bearer {SECRET}"}

    (result,) = output(run, "annotate")
    assert (result["annotator"], result["model"]) == ("llm", "openai-compatible:small")
    (event,) = asset_events(run)
    assert event.asset.uri == result["uris"]["h5ad"]
    figures = ("n_clusters", "n_flagged", "n_cells", "n_genes", "annotator", "model", "marker_database_sha256")
    assert {name: event.extra[name] for name in figures} == {name: result[name] for name in figures}
    assert event.extra["artefact"] == "h5ad"
    assert event.extra["request_id"] == result["stats"]["request_id"]
    assert event.extra["request_id"].startswith("gca_annotate.annotate.manual__")

    printed = capfd.readouterr()
    written = [as_path(uri).read_bytes() for uri in result["uris"].values()]
    for text in (stored(run), caplog.text, printed.out, printed.err, *(data.decode("latin-1") for data in written)):
        assert SECRET not in text
    assert "loopback" in stored(run)


def test_a_connection_that_is_not_there_fails_at_once(run_dag: Any, cells: str) -> None:
    run = run_dag("gca_annotate", input_uri=cells, cluster_key="truth", tissue=None, gca_llm_conn_id="nobody")
    assert states(run)["annotate"] == ["failed"]
    (instance,) = (ti for ti in run.get_task_instances() if ti.task_id == "annotate")
    assert instance.try_number == 1


@pytest.mark.usefixtures("airflow_home")
def test_labels_that_are_there_are_judged_and_stay(cells: str, server: LoopbackServer, tmp_path: Path) -> None:
    import anndata as ad

    task = AnnotateAnnDataOperator(
        task_id="validate",
        input_uri=cells,
        output_uri=str(tmp_path / "out"),
        labels_key="truth",
        validate_only="True",
        gca_llm_conn_id="loopback",
    )
    result = task.execute({})
    before, after = ad.read_h5ad(as_path(cells)), ad.read_h5ad(as_path(result["uris"]["h5ad"]))
    assert (before.obs["truth"] == after.obs["truth"]).all()
    assert "gptca_status" in after.obs
    assert result["n_clusters"] == len(MIXTURE)
    assert server.requests == []
