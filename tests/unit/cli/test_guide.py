import ast
import importlib
import re
import shlex
from pathlib import Path
from textwrap import dedent

import pytest
import typer
from typer.testing import CliRunner

from gca_core.cli.main import app

REPOSITORY = Path(__file__).resolve().parents[3]
README, DOCS = REPOSITORY / "README.md", REPOSITORY / "docs"
GUIDES = DOCS / "guides"
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
    pairs = {f"--{name}" for name in ("use-cache", "guardrail-force-unknown", "overwrite", "umap")}
    assert {name.replace("--", "--no-", 1) if name in pairs else name for name in known} == named


PAGES = sorted(page for page in (README, *DOCS.rglob("*.md")) if re.search(r"^ *(\$ )?gca ", page.read_text(), re.M))


@pytest.mark.parametrize("page", PAGES, ids=[path.stem for path in PAGES])
def test_commands_in_the_documentation_exist_with_their_options(page):
    blocks = re.findall(r"^ *```(?:bash|console|sh)?\n(.*?)^ *```", page.read_text("utf-8"), re.S | re.M)
    joined = "\n".join(blocks).replace("\\\n", " ")
    lines = [line.strip().removeprefix("$ ") for line in joined.splitlines()]
    for line in (line for line in lines if line.startswith("gca ")):
        words = shlex.split(line, comments=True)[1:]
        command = ROOT
        while hasattr(command, "commands") and words and words[0] in command.commands:
            command = find(command, words.pop(0))
        if hasattr(command, "commands") and "--help" not in words:
            # a file in the place of a command is trained on
            assert line.startswith("gca vae "), line
            command = find(command, "train")
        used = {word.partition("=")[0] for word in words if word.startswith("--")} - {"--help"}
        assert used <= options_of(command), line


@pytest.mark.slow
def test_python_in_the_documentation_parses_and_imports_what_is_there():
    text = "\n".join(page.read_text("utf-8") for page in (README, *DOCS.rglob("*.md")))
    blocks = [dedent(block) for block in re.findall(r"^ *```python\n(.*?)^ *```", text, re.S | re.M)]
    assert len(blocks) > 20
    for block in blocks:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith(("gca_core", "airflow_provider_gca")):
                module = importlib.import_module(str(node.module))
                assert [name.name for name in node.names if not hasattr(module, name.name)] == [], block
