import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from gca_core.cli.main import app

GUIDES = Path(__file__).resolve().parents[3] / "docs" / "guides"
ROOT = typer.main.get_command(app)


def find(group, name: str):
    return group.resolve_command(typer.Context(group), [name])[1]


def options_of(command) -> set[str]:
    return {
        name for p in command.params for name in (*p.opts, *p.secondary_opts) if name.startswith("--") and not p.hidden
    }


def with_names(command, *words: str):
    yield command, words
    for name in getattr(command, "commands", ()):
        yield from with_names(find(command, name), *words, name)


@pytest.mark.parametrize("columns", ["80", "120"])
def test_help_cuts_no_name(columns):
    for command, words in with_names(ROOT):
        shown = CliRunner(env={"COLUMNS": columns}).invoke(app, [*words, "--help"]).output
        assert {name for name in options_of(command) if name not in shown} == set(), words


def test_the_page_names_every_option_of_annotate():
    page = (GUIDES / "cli.md").read_text(encoding="utf-8")
    table = page[page.index("## Options of `gca scanpy annotate`") : page.index("## Options of `gca` itself")]
    first = [line.split("|")[1] for line in table.splitlines() if "|" in line]
    named = set(re.findall(r"`(--[a-z-]+)`", "\n".join(first)))
    known = options_of(find(find(ROOT, "scanpy"), "annotate"))
    assert named <= known
    # those with two forms are named by the one that isn't the default
    pairs = {f"--{name}" for name in ("use-cache", "guardrail-force-unknown", "overwrite")}
    assert {name.replace("--", "--no-", 1) if name in pairs else name for name in known} == named


@pytest.mark.parametrize("guide", ["annotate", "cli", "llm", "markers", "migration", "offline"])
def test_commands_in_guides_exist_with_their_options(guide):
    page = (GUIDES / f"{guide}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```\w*\n(.*?)```", page, re.S)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
    commands = [line for line in lines if line.startswith("gca ")]
    assert commands
    for line in commands:
        words = shlex.split(line, comments=True)[1:]
        command = ROOT
        while hasattr(command, "commands") and words and words[0] in command.commands:
            command = find(command, words.pop(0))
        assert not hasattr(command, "commands"), line
        used = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert used <= options_of(command), line
