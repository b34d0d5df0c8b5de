import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from gca_core.cli.haystack.run import app
from gca_core.errors import ConfigurationError, QueryParsingError

pytestmark = pytest.mark.usefixtures("quiet_log")
QUESTION = "How would CD14+ monocytes respond to interferon beta?"


def test_a_question_is_shown_as_it_is_read() -> None:
    result = CliRunner().invoke(app, ["understand", QUESTION])
    assert result.exit_code == 0
    assert "CL:0002057" in result.output
    assert "HALLMARK_INTERFERON_ALPHA_RESPONSE up" in result.output


@pytest.mark.parametrize("asked", [[QUESTION], ["--cell-type", "CD14+ monocyte", "--perturbation", "IFN-b"]])
def test_json_holds_the_whole_query(asked: list[str]) -> None:
    result = CliRunner().invoke(app, ["understand", *asked, "--json"])
    query = json.loads(result.stdout)
    assert (query["cell_type_id"], query["perturbation"]) == ("CL:0002057", "interferon beta")


def test_an_unreadable_question_is_json_too_with_exit_code_2() -> None:
    result = CliRunner().invoke(app, ["understand", "monocytes and interferon", "--json"])
    assert result.exit_code == 2
    assert "interferon beta" in json.loads(result.stdout)["suggestions"]


def test_without_json_the_error_goes_to_the_command() -> None:
    result = CliRunner().invoke(app, ["understand", "monocytes and interferon"])
    assert isinstance(result.exception, QueryParsingError)


def test_a_demo_brings_its_own_dataset() -> None:
    result = CliRunner().invoke(app, ["run", QUESTION, "--demo", "--dataset", "mine"])
    assert result.exit_code == 2
    assert "leave out --dataset" in " ".join(result.output.replace("│", " ").split())


def test_a_backend_that_cant_run_stops_before_the_database_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    # nothing listens there: reaching for the database would fail in another way
    monkeypatch.setenv("GCA_ATLAS_DSN", "postgresql://nobody@127.0.0.1:9/none")
    result = CliRunner().invoke(app, ["run", QUESTION, "--backend", "stack"])
    assert isinstance(result.exception, ConfigurationError)


def test_the_command_loads_nothing_heavy() -> None:
    code = (
        "import sys, gca_core.cli.haystack.run, gca_core.haystack.models, gca_core.inference, gca_core.grounding; "
        "heavy = {'anndata', 'scanpy', 'torch', 'pandas', 'numpy', 'scipy', 'matplotlib', 'psycopg', 'rapidfuzz'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
