"""``gca scanpy annotate --model`` and ``gca cache``, against a loopback server."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gca_core.cli import main
from gca_core.cli.annotation.scanpy import app
from gca_core.errors import ConfigurationError
from tests.helpers.blood import MIXTURE
from tests.helpers.llm_cells import TABLE, blood_markers, simulated_blood
from tests.helpers.llm_loopback import LoopbackServer, name_by_markers, say


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cells") / "cells.h5ad"
    simulated_blood().write_h5ad(path)
    path.with_name("markers.csv").write_text(TABLE)
    return path


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    name = name_by_markers(blood_markers(), MIXTURE.values())
    with LoopbackServer(lambda request, _: say(name(request))).running() as found:
        yield found


def gca(*arguments: str) -> str:
    """What the command prints."""
    done = CliRunner().invoke(main.app, list(arguments), env={"COLUMNS": "200"}, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.usefixtures("quiet_log")
def test_the_command_names_a_model_and_keeps_its_answers(source, server, tmp_path, monkeypatch):
    model, cache = f"openai-compatible:small@{server.url}", str(tmp_path / "cache")
    run = ("scanpy", "annotate", str(source), "--cluster-key", "truth", "-o", str(tmp_path / "out"), "--json")
    run += ("--marker-db", str(source.with_name("markers.csv")))
    prices = ("--price", "openai-compatible:small=1,2,EUR", "--max-cost", "1")
    first = json.loads(gca(*run, "--model", model, *prices, "--cache-dir", cache))
    assert first["model"] == "openai-compatible:small"
    assert first["model_stats"]["usage"]["cost"] > 0
    assert first["model_stats"]["usage"]["currency"] == "EUR"
    monkeypatch.setenv("GCA_LLM", model)
    monkeypatch.setenv("GCA_CACHE_DIR", cache)
    again = json.loads(gca(*run))
    assert (again["labels"], again["model_stats"]["cache_hits"]) == (first["labels"], 5)
    assert len(server.requests) == 1
    assert json.loads(gca(*run, "--offline"))["model"] is None
    monkeypatch.delenv("GCA_CACHE_DIR")
    info = json.loads(gca("cache", "info", "--cache-dir", cache, "--json"))
    assert (info["answers"], info["models"]) == (5, {"openai-compatible:small": 5})
    assert "deleted 5 answers" in gca("cache", "clear", "--yes", "--cache-dir", cache)
    monkeypatch.setenv("GCA_CACHE_DIR", cache)
    assert "answers: 0" in gca("cache", "info")


def test_a_model_that_cannot_be_called_is_refused_before_anything_is_written(source, tmp_path, monkeypatch):
    out = tmp_path / "out"
    run = ("annotate", str(source), "--cluster-key", "truth", "-o", str(out))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    local = "openai-compatible:m@http://127.0.0.1:9/v1"
    for options, complaint in (
        (("--model", "gpt-4o-mini"), "is not known"),
        (("--model", "openai:m"), "needs a key; set OPENAI_API_KEY"),
        (("--model", local, "--price", "m"), "price 'm' does not fit"),
        (("--model", local, "--max-cost", "1"), "needs the price"),
    ):
        with pytest.raises(ConfigurationError, match=complaint):
            CliRunner().invoke(app, [*run, *options], catch_exceptions=False)
    both = CliRunner().invoke(app, [*run, "--model", local, "--offline"])
    assert both.exit_code == 2
    assert "exclude each other" in both.output
    assert not out.exists()
