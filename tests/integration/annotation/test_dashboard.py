"""The dashboard on the labelled PBMC that come with scanpy: Streamlit runs the page itself, without a browser."""

import contextlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import anndata as ad
import httpx
import psutil
import pytest
from streamlit.testing.v1 import AppTest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

import gca_core.annotation.dashboard as pages
from gca_core.annotation import AnnotationConfig, annotate_file
from gca_core.annotation.labels.corrections import CORRECTIONS_FILE, load_corrections
from gca_core.annotation.models import DatasetReport
from gca_core.annotation.report import drawn_cells
from gca_core.cli.main import main
from gca_core.datasets import pbmc68k_reduced
from gca_core.io import as_path, write_json
from tests.helpers.live_airflow import free_port

APP = f"{pages.__path__[0]}/app.py"
HOSTILE = "<img src=x onerror=alert(1)> **b** $x^2$ :red[c] [l](http://127.0.0.1)"


@pytest.fixture(scope="module")
def annotated(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pbmc")
    pbmc68k_reduced().write_h5ad(folder / "cells.h5ad")
    annotate_file(
        AnnotationConfig(
            input_uri=str(folder / "cells.h5ad"),
            output_uri=str(folder / "results"),
            cluster_key="louvain",
            tissue="blood",
        )
    )
    return folder / "results"


@pytest.fixture
def results(annotated, tmp_path) -> Path:
    shutil.copytree(annotated, tmp_path / "results")
    return tmp_path / "results"


@pytest.fixture
def opened(monkeypatch):
    """A page on results, as a browser would have it."""

    def opened(results: Path | str, who: str = "Ada") -> AppTest:
        monkeypatch.setattr(sys, "argv", [APP, f"{results}/report.json", who])
        page = AppTest.from_file(APP, default_timeout=60).run()
        assert not page.exception
        return page

    return opened


def decide(page: AppTest, cluster: int, label: str, why: str = "") -> AppTest:
    page.selectbox(key="cluster").select(cluster).run()
    page.text_input[0].input(label)
    page.text_input[1].input(why)
    page.button[0].click().run()
    assert not page.exception
    return page


def report_of(results: Path) -> DatasetReport:
    return DatasetReport.model_validate_json((results / "report.json").read_text())


def contents(results: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in results.iterdir() if path.is_file()}


def chart_of(page: AppTest) -> dict:
    (chart,) = page.get("vega_lite_chart")
    return json.loads(chart.proto.spec)


def texts(page: AppTest) -> str:
    return "\n".join(text.value for text in page.text)


def test_it_shows_clusters_labels_evidence_and_the_umap(opened, results):
    report = report_of(results)
    page = opened(results)
    table = next(frame.value for frame in page.dataframe if "confidence" in frame.value)
    assert list(table["cluster"]) == [a.cluster for a in report.annotations]
    assert list(table["label"]) == [a.primary_label for a in report.annotations]
    assert [metric.value for metric in page.metric] == ["11", str(report.n_flagged), "700", "0"]
    page.selectbox(key="cluster").select(3).run()
    evidence = next(frame.value for frame in page.dataframe if "weight" in frame.value)
    found = report.annotations[3].evidence
    assert list(evidence["gene"]) == [g.gene for g in (*found.supporting, *found.contradicting)]
    assert report.annotations[3].rationale in texts(page)
    assert chart_of(page)["encoding"]["color"]["field"] == "label"
    page.selectbox(key="colour").select("confidence").run()
    assert chart_of(page)["encoding"]["color"]["field"] == "confidence"


def test_a_decision_goes_into_cells_report_and_corrections(opened, results):
    cluster = report_of(results).annotations[2].cluster
    page = decide(opened(results), 2, "NK cells", "GNLY is high")
    assert [message.value for message in page.success] == ["Written into the results:"]
    override = report_of(results).annotations[2].override
    assert override is not None
    assert (override.label, override.who, override.note) == ("natural killer cell", "Ada", "GNLY is high")
    cells = ad.read_h5ad(results / "annotated.h5ad").obs
    assert set(cells.loc[cells["louvain"] == cluster, "gptca_label"]) == {"natural killer cell"}
    (correction,) = load_corrections(results / CORRECTIONS_FILE).corrections
    assert (correction.cluster, correction.ontology_id) == (cluster, "CL:0000623")
    table = next(frame.value for frame in page.dataframe if "confidence" in frame.value)
    assert table["decided by"][2] == "Ada"
    assert page.metric[3].value == "1"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("label", "told"),
    [("no such cell", "is no name of a Cell Ontology term"), (" ", "the label is empty")],
)
def test_a_label_that_is_none_changes_nothing_and_is_told(opened, results, label, told):
    before = contents(results)
    page = decide(opened(results), 0, label)
    assert [message.value for message in page.error] == ["Nothing was changed:"]
    assert told in texts(page)
    assert contents(results) == before


@pytest.mark.slow
def test_a_decision_on_a_cluster_that_is_another_one_meanwhile_is_refused(opened, results):
    page = opened(results)
    page.selectbox(key="cluster").select(1).run()
    report = report_of(results)
    again = report.annotations[1].model_copy(update={"markers": report.annotations[4].markers})
    write_json(
        results / "report.json",
        report.model_copy(update={"annotations": (report.annotations[0], again, *report.annotations[2:])}),
    )
    before = contents(results)
    page.text_input[0].input("NK cells")
    page.button[0].click().run()
    assert [message.value for message in page.error] == ["Nothing was changed:"]
    assert "was annotated anew" in texts(page)
    assert contents(results) == before


@pytest.mark.slow
def test_results_that_can_not_be_written_are_as_before_and_the_page_says_why(opened, results, monkeypatch):
    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gca_core.annotation.run.render_csv", full)
    before = contents(results)
    page = decide(opened(results), 0, "B cell")
    assert "No space left on device" in texts(page)
    assert contents(results) == before


def test_text_from_data_is_never_markup(opened, results):
    report = report_of(results)
    first = report.annotations[0].model_copy(
        update={
            "rationale": HOSTILE,
            "caveats": (HOSTILE,),
            "proposed_label": HOSTILE,
            "primary_label": HOSTILE,
            "markers": (HOSTILE,),
        }
    )
    hostile = report.model_copy(update={"annotations": (first, *report.annotations[1:]), "model": HOSTILE})
    write_json(results / "report.json", hostile)
    page = opened(results)
    page.selectbox(key="cluster").select(0).run()
    assert HOSTILE in texts(page)
    kinds = {element.type for element in page if HOSTILE in str(getattr(element, "value", ""))}
    assert kinds <= {"text", "selectbox", "dataframe"}
    labels = [element.label for element in (*page.selectbox, *page.text_input, *page.button, *page.metric)]
    assert not any(HOSTILE in label for label in labels)


@pytest.mark.slow
def test_of_many_cells_some_of_every_cluster_are_drawn(opened, results, monkeypatch):
    monkeypatch.setattr("gca_core.annotation.dashboard.page.MAX_DRAWN", 400)
    monkeypatch.setattr(drawn_cells, "MAX_DRAWN", 400)
    drawn = opened(results).session_state["cells"]
    assert len(drawn) == 400
    assert set(drawn["annotation"]) == set(range(11))


@pytest.mark.slow
def test_results_in_a_bucket_are_decided_on_like_others(opened, results, bucket):
    for path in results.iterdir():
        if path.is_file():
            as_path(f"gs://lab/run/{path.name}").write_bytes(path.read_bytes())
    page = decide(opened("gs://lab/run"), 0, "B cell")
    assert [message.value for message in page.success] == ["Written into the results:"]
    (correction,) = load_corrections(f"gs://lab/run/{CORRECTIONS_FILE}").corrections
    assert (correction.label, correction.who) == ("B cell", "Ada")


@pytest.mark.slow
def test_results_without_cells_are_told(opened, results):
    (results / "annotated.h5ad").unlink()
    page = opened(results)
    assert [message.value for message in page.error] == ["The results can't be shown:"]
    assert "put it back, or annotate again" in texts(page)


def test_the_command_refuses_what_holds_no_results_of_one_run(results, capsys):
    for where, told in [(results.parent / "none.h5ad", "does not exist"), (Path(APP), "no report.json beside")]:
        with pytest.raises(SystemExit) as end:
            main(["dashboard", str(where)])
        assert end.value.code == 2
        assert told in capsys.readouterr().err
    shutil.copytree(results, results.parent / "more")
    with pytest.raises(SystemExit) as end:
        main(["dashboard", str(results.parent)])
    assert end.value.code == 2
    assert "holds the results of 2 runs: 'more', 'results'" in capsys.readouterr().err


def test_without_its_extra_the_command_names_it(results, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "streamlit", None)
    with pytest.raises(SystemExit) as end:
        main(["dashboard", str(results / "annotated.h5ad")])
    assert end.value.code == 2
    assert "pip install 'airflow-provider-gca[ui]'" in capsys.readouterr().err


@pytest.mark.slow
def test_it_listens_on_the_loopback_alone_and_hears_no_other_site(results, tmp_path):
    port = free_port()
    (tmp_path / ".streamlit").mkdir()
    (tmp_path / ".streamlit" / "config.toml").write_text('[server]\naddress = "0.0.0.0"\n')
    command = [sys.executable, "-m", "gca_core.cli.main", "dashboard", str(results), "--port", str(port)]
    with subprocess.Popen(command, cwd=tmp_path) as process:
        try:
            assert answer(f"http://127.0.0.1:{port}/_stcore/health", process) == "ok"
            (child,) = psutil.Process(process.pid).children()
            heard = [c.laddr for c in child.net_connections("inet") if c.status == psutil.CONN_LISTEN]
            assert {(address.ip, address.port) for address in heard} == {("127.0.0.1", port)}
            url = f"ws://127.0.0.1:{port}/_stcore/stream"
            with connect(url, origin=f"http://127.0.0.1:{port}"):
                pass
            with pytest.raises(InvalidStatus, match="403"), connect(url, origin="http://evil.example"):
                pass
        finally:
            child.terminate()
            process.wait(30)


def answer(url: str, process: subprocess.Popen) -> str:
    """What a server says, once it does."""
    for _ in range(300):
        assert process.poll() is None
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(url).text
        time.sleep(0.1)
    raise AssertionError(f"nothing answers at {url}")
