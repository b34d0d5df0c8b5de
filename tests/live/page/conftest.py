"""A running Airflow with users and an atlas, and a real Chromium that looks at it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.helpers.haystack_atlas import QUESTION
from tests.helpers.live_airflow import REPOSITORY, LiveAirflow, live_airflow

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, ConsoleMessage, Page, Request

SHOTS = REPOSITORY / "build" / "page"
AXE = REPOSITORY / "build" / "axe-core" / "package" / "axe.min.js"
ROLES = {"admin": "admin", "editor": "user", "viewer": "viewer"}
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
DAG = "gca_haystack_ask"
# deaths are other tests' matter; here a slow machine is no fault
PATIENT = {
    "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "120",
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "120",
}
SERIOUS = ("serious", "critical")


@pytest.fixture(scope="session")
def airflow() -> Iterator[LiveAirflow]:
    """A running Airflow whose atlas holds the bundled cells, without the answer to the question."""
    with live_airflow(REPOSITORY / "dags", PATIENT, roles=ROLES) as running:
        ingest_demo(running.gca_home)
        yield running


@pytest.fixture(scope="session")
def annotated(airflow: LiveAirflow) -> str:
    """A finished run of the annotation DAG."""
    run = airflow.trigger("gca_annotate")
    airflow.wait_for_run(run, "success", "failed")
    return run


def ingest_demo(home: Path) -> None:
    """The example atlas of an installation."""
    from gca_core.config import load_settings
    from gca_core.haystack.context import open_context
    from gca_core.haystack.demo.kang2018 import prepare_demo
    from gca_core.haystack.understand import understand

    settings = load_settings(home=home)
    context = open_context(settings)
    prepare_demo(understand(QUESTION, context=context), context, settings)


@dataclass
class Visitor:
    """Someone who looks at pages of an Airflow in a browser; what goes wrong there is kept."""

    context: BrowserContext
    url: str
    page: Page
    wrong: list[str] = field(default_factory=list)
    shots: list[str] = field(default_factory=list)

    def sign_in(self, name: str) -> None:
        """Sign in as a person does."""
        self.page.goto(f"{self.url}/auth/login")
        self.page.locator("input[name=username]").fill(name)
        self.page.locator("input[name=password]").fill(name)
        self.page.get_by_role("button", name="Sign in").click()
        self.page.wait_for_url(lambda url: "/auth/" not in url)

    def shot(self, name: str, *, whole: bool = True) -> None:
        """Keep a picture of the page, or of what the window shows of it."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.shots.append(name)
        self.page.screenshot(path=SHOTS / f"{name}.png", full_page=whole)

    def has(self, name: str) -> bool:
        """Whether a picture of that name was taken."""
        return name in self.shots

    def check(self) -> None:
        """No serious fault of accessibility, and nothing wider than the screen."""
        wide = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{self.page.url} is {wide} px wider than the screen"
        if AXE.exists():
            self.page.evaluate(AXE.read_text())
            found = self.page.evaluate("axe.run()")["violations"]
            assert [(f["id"], f["nodes"][0]["html"]) for f in found if f["impact"] in SERIOUS] == []


@pytest.fixture(scope="session")
def visit(airflow: LiveAirflow) -> Iterator[Callable[..., Visitor]]:
    """Open a browser's window."""
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        pytest.skip("no Chromium is here; install Debian's package chromium, or name one in CHROMIUM")
    assert AXE.exists() or "CI" not in os.environ, "axe-core is missing; make test-page fetches it by npm"
    from playwright.sync_api import sync_playwright

    visitors: list[Visitor] = []
    with sync_playwright() as driver:
        # as root, which has no sandbox, only pages of this machine are opened
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])

        def opened(size: dict[str, int] = DESK, theme: str = "light") -> Visitor:
            context = browser.new_context(viewport=size, color_scheme=theme, base_url=airflow.url)
            context.set_default_timeout(60_000)
            visitor = Visitor(context, airflow.url, context.new_page())

            def console(message: ConsoleMessage) -> None:
                if message.type == "error":
                    visitor.wrong.append(f"{message.text} {message.location}")

            def request(asked: Request) -> None:
                if not asked.url.startswith((airflow.url, "data:", "blob:")):
                    visitor.wrong.append(f"a request left the host: {asked.url}")

            context.on("console", console)
            context.on("weberror", lambda error: visitor.wrong.append(str(error.error)))
            context.on("request", request)
            visitors.append(visitor)
            return visitor

        yield opened
        browser.close()
    assert [wrong for visitor in visitors for wrong in visitor.wrong] == []
