import asyncio
from io import StringIO

import pytest
from rich.console import Console

from gca_core.cli import terminal
from gca_core.progress import Progress, listening, report_progress


def test_what_is_told_is_heard_in_its_block_alone():
    heard = []
    report_progress("before")
    with listening(heard.append):
        report_progress("rank")
        report_progress("ask", 1, 4)
        with listening(lambda _: None):
            report_progress("elsewhere")
    report_progress("after")
    assert heard == [Progress("rank"), Progress("ask", 1, 4)]


def test_a_worker_thread_is_heard_too():
    heard = []
    with listening(heard.append):
        asyncio.run(asyncio.to_thread(report_progress, "rank"))
    assert heard == [Progress("rank")]


def test_a_listener_can_end_the_work():
    def refuse(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), listening(refuse):
        report_progress("rank")


def test_a_terminal_shows_progress(monkeypatch):
    screen = StringIO()
    monkeypatch.setattr(terminal, "console", Console(file=screen, force_terminal=True, width=100))
    with terminal.progress_shown():
        report_progress("rank")
        report_progress("ask", 3, 7)
    assert "asking the model" in screen.getvalue()
    assert "3/7" in screen.getvalue()


def test_anything_else_shows_none(monkeypatch):
    screen = StringIO()
    monkeypatch.setattr(terminal, "console", Console(file=screen, force_terminal=False))
    with terminal.progress_shown():
        report_progress("rank")
    assert screen.getvalue() == ""
