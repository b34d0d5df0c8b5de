import asyncio
from io import StringIO

import pytest
from rich.console import Console

from gca_core.cli import terminal
from gca_core.progress import Progress, listening, tell


def test_what_is_told_is_heard_in_its_block_alone():
    heard = []
    tell("before")
    with listening(heard.append):
        tell("rank")
        tell("ask", 1, 4)
        with listening(lambda _: None):
            tell("elsewhere")
    tell("after")
    assert heard == [Progress("rank"), Progress("ask", 1, 4)]


def test_a_worker_thread_is_heard_too():
    heard = []
    with listening(heard.append):
        asyncio.run(asyncio.to_thread(tell, "rank"))
    assert heard == [Progress("rank")]


def test_a_listener_can_end_the_work():
    def refuse(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), listening(refuse):
        tell("rank")


def test_a_terminal_shows_progress(monkeypatch):
    screen = StringIO()
    monkeypatch.setattr(terminal, "console", Console(file=screen, force_terminal=True, width=100))
    with terminal.progress_shown():
        tell("rank")
        tell("ask", 3, 7)
    assert "asking the model" in screen.getvalue()
    assert "3/7" in screen.getvalue()


def test_anything_else_shows_none(monkeypatch):
    screen = StringIO()
    monkeypatch.setattr(terminal, "console", Console(file=screen, force_terminal=False))
    with terminal.progress_shown():
        tell("rank")
    assert screen.getvalue() == ""
