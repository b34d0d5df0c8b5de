"""The page in a real browser: ask, watch, read, cancel, look around; on a desk and on a phone, light and dark."""

import json
import re
from pathlib import Path

import pytest

from gca_core.config import load_settings
from gca_core.runs.models import RunStatus
from gca_core.runs.store import RunStore
from gca_core.store.resolve import resolve_dsn
from tests.helpers.haystack_atlas import QUESTION
from tests.helpers.live_airflow import LiveAirflow
from tests.live.page.conftest import DAG, PHONE

RUN = re.compile(r"/gca/runs/(hay_\d{8}_\w{6})$")


@pytest.fixture(scope="module")
def records(airflow: LiveAirflow) -> RunStore:
    """The run records."""
    return RunStore(resolve_dsn(load_settings(home=airflow.gca_home)))


@pytest.fixture(scope="module")
def asked(airflow: LiveAirflow, visit) -> str:
    """A run that was asked for and watched to its end inside of Airflow's own page; its id."""
    editor = visit()
    editor.sign_in("editor")
    page = editor.page
    page.goto("/plugin/gca")
    frame = page.frame_locator("iframe")
    frame.get_by_role("heading", name="The DAG is paused").wait_for()
    editor.shot("1_paused")
    airflow.unpause(DAG)
    page.reload()
    frame.get_by_label("Your question").wait_for()
    editor.shot("2_ask")
    frame.get_by_label("Your question").fill("too short")
    frame.get_by_role("button", name="Ask", exact=True).click()
    assert frame.locator("textarea:invalid").count() == 1
    frame.get_by_label("Your question").fill(QUESTION)
    frame.get_by_text("Options", exact=True).click()
    frame.get_by_label("Iterations").fill("2")
    frame.get_by_label("Score to reach").fill("9.9")
    frame.get_by_role("button", name="Ask", exact=True).click()
    frame.get_by_role("heading", name=QUESTION).wait_for()
    run_id = frame.locator("[data-run]").get_attribute("data-run")
    heard: list[str] = []

    def over() -> bool:
        said = frame.locator("[data-said]").get_attribute("data-said")
        if said not in heard:
            heard.append(said)
        if frame.locator("circle").count() and not editor.has("3_watch"):
            editor.shot("3_watch")
        return frame.locator("[data-over]").count() > 0

    airflow.wait(over, f"the page to show the end of {run_id}")
    # it showed by itself how the run went on
    assert len({line.split(",")[0] for line in heard}) > 3, heard
    assert heard[-1].startswith("completed")
    frame.get_by_role("heading", name="What came out").wait_for()
    editor.shot("4_finished")
    return run_id


def test_a_result_is_read_and_downloaded(asked: str, visit, tmp_path: Path) -> None:
    editor = visit()
    editor.sign_in("editor")
    page = editor.page
    page.goto(f"/gca/runs/{asked}")
    assert page.locator(".genes b", has_text="ISG15").count()
    assert page.get_by_role("cell", name="HALLMARK_INTERFERON_ALPHA_RESPONSE").count()
    report = page.frame_locator("iframe.report")
    report.get_by_role("heading", name=QUESTION).wait_for()
    editor.shot("5_results")
    # it is drawn a moment after it is seen
    page.locator("iframe.report").scroll_into_view_if_needed()
    page.wait_for_timeout(2500)
    editor.shot("5_report", whole=False)
    starts = {"h5ad": b"\x89HDF", "html": b"<!doctype html>", "markdown": b"# ", "json": b"{"}
    for kind, start in starts.items():
        with page.expect_download() as download:
            page.locator(f"a[download][href$='/{kind}']").click()
        file = tmp_path / kind
        download.value.save_as(file)
        assert file.read_bytes().startswith(start), kind
    assert json.loads((tmp_path / "json").read_text())["canonical"]["run"]["query"]["question"] == QUESTION
    editor.check()


def test_a_run_is_cancelled_on_a_phone_in_the_dark(airflow: LiveAirflow, asked: str, visit, records: RunStore) -> None:
    editor = visit(PHONE, "dark")
    editor.sign_in("editor")
    page = editor.page
    page.goto("/gca/")
    page.get_by_role("button", name=re.compile("^How would")).first.click()
    page.get_by_role("button", name="Ask", exact=True).click()
    page.wait_for_url(RUN)
    (run_id,) = RUN.search(page.url).groups()
    airflow.wait(lambda: records.get(run_id).status is RunStatus.RUNNING, f"{run_id} to run")
    page.get_by_role("button", name="Cancel the run").click()
    editor.shot("6_cancel")
    page.get_by_role("dialog").get_by_role("button", name="Cancel the run").click()
    page.locator(".status.cancelled").wait_for(timeout=30_000)
    airflow.wait(lambda: records.get(run_id).status is RunStatus.CANCELLED, f"{run_id} to be cancelled")
    row = records.get(run_id)
    airflow.wait_for_run(f"/dags/{DAG}/dagRuns/{row.dag_run_id}", "failed")
    page.get_by_role("heading", name="It was cancelled").wait_for()
    editor.shot("7_cancelled")
    page.goto("/gca/runs?status=cancelled")
    assert page.locator("tbody tr").count() == 1
    editor.check()


@pytest.mark.parametrize(("name", "size", "theme"), [("desk", None, "light"), ("phone", PHONE, "dark")])
def test_every_page_is_fit_to_be_used(asked: str, visit, name: str, size, theme: str) -> None:
    editor = visit(size, theme) if size else visit()
    editor.sign_in("editor")
    for what, path in {
        "ask": "/gca/",
        "runs": "/gca/runs",
        "run": f"/gca/runs/{asked}",
        "atlas": "/gca/atlas?cell_type=monocyte",
        "prompts": f"/gca/atlas?question={QUESTION.replace('+', '%2B')}",
        "nothing": "/gca/atlas?tissue=moon",
    }.items():
        editor.page.goto(path)
        editor.shot(f"{name}_{what}")
        editor.check()
    # by keyboard alone
    editor.page.goto("/gca/")
    editor.page.keyboard.press("Tab")
    assert editor.page.locator("a.skip:focus").inner_text() == "To the content"


def test_the_atlas_is_searched(visit) -> None:
    viewer = visit()
    viewer.sign_in("viewer")
    page = viewer.page
    page.goto("/gca/atlas")
    page.get_by_label("Cell type").fill("b cell")
    page.get_by_label("Perturbation").fill("FERON beta")
    page.get_by_role("button", name="Search").click()
    page.get_by_role("heading", name=re.compile("^1 group")).wait_for()
    page.get_by_label("A question").fill(QUESTION)
    page.get_by_role("button", name="Show the prompts").click()
    page.get_by_role("link", name="Ask this").wait_for()
    assert page.get_by_role("table").last.get_by_role("row").count() > 2


def test_a_viewer_may_neither_ask_nor_see_what_others_asked(asked: str, visit) -> None:
    viewer = visit()
    viewer.sign_in("viewer")
    viewer.page.goto("/gca/")
    viewer.page.get_by_role("heading", name="You may look, but not ask").wait_for()
    viewer.shot("viewer")
    assert viewer.page.request.get(f"/gca/runs/{asked}").status == 404
    assert visit().page.request.get(f"/gca/runs/{asked}").status == 401


def test_the_tab_of_a_dag_run_shows_its_run_as_light_or_dark_as_airflow(asked: str, visit, records: RunStore) -> None:
    editor = visit()
    editor.sign_in("editor")
    editor.page.evaluate("localStorage.setItem('theme', 'dark')")
    editor.page.goto(f"/dags/{DAG}/runs/{records.get(asked).dag_run_id}/plugin/gca-run")
    frame = editor.page.frame_locator("iframe")
    frame.get_by_role("heading", name=QUESTION).wait_for()
    assert frame.locator("html").evaluate("node => node.style.colorScheme") == "dark"
    report = frame.frame_locator("iframe.report")
    report.get_by_role("heading", name=QUESTION).wait_for()
    assert report.locator("html").evaluate("node => node.style.colorScheme") == "dark"
    editor.shot("8_dag_run")


def test_a_report_opens_by_its_operators_link(airflow: LiveAirflow, annotated: str, visit) -> None:
    links = [airflow.get(f"{annotated}/taskInstances/{task['task_id']}/links") for task in airflow.tasks(annotated)]
    (link,) = [link["extra_links"]["Report"] for link in links if link["extra_links"].get("Report")]
    viewer = visit()
    assert viewer.page.request.get(link).status == 401
    viewer.sign_in("viewer")
    viewer.page.goto(link)
    viewer.page.locator("h1").wait_for()
    viewer.shot("9_report_by_link")
