import asyncio
from io import StringIO

import pytest
from rich.console import Console

from gca_core.cli import failures, main, terminal
from gca_core.errors import ConfigurationError
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


@pytest.mark.parametrize(
    ("words", "message", "told"),
    [
        (["scanpy", "annotate", "a.h5ad"], "seed: too low; name the clusters as cluster_key", "--seed: too low; "),
        (["scanpy", "annotate", "a.h5ad"], "no column 'cluster_key' in my_cluster_key.h5ad", "no column 'cluster_key'"),
        (["vae", "train", "a.h5ad"], "a.h5ad: counts_layer is needed, in cluster_key", "a.h5ad: --counts-layer is"),
        (["vae", "map", "a"], "labels_key or batch_key is needed", "--label-column or --batch-column is needed"),
    ],
)
def test_errors_name_the_options_of_the_command(words, message, told, capsys):
    assert failures.report(ConfigurationError(message), main.app, words) == failures.EXIT_BAD_INPUT
    assert capsys.readouterr().err.startswith(f"error: {told}")
