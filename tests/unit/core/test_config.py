"""Settings and optional modules."""

from pathlib import Path

import pytest

from gca_core.config import Profile, load_settings, require
from gca_core.errors import ConfigurationError


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("PROFILE", "HOME", "ATLAS_DSN", "RESULTS_URI", "LLM", "SEED", "ENV_FILE"):
        monkeypatch.delenv(f"GCA_{name}", raising=False)
    monkeypatch.chdir(tmp_path)


def test_an_argument_wins_over_the_environment_which_wins_over_the_file(monkeypatch, tmp_path):
    (tmp_path / ".env").write_text("GCA_SEED=1\nGCA_LLM=openai:from-file\n")
    monkeypatch.setenv("GCA_SEED", "2")
    assert load_settings().seed == 2
    assert load_settings().llm == "openai:from-file"
    assert load_settings(seed=3).seed == 3
    assert load_settings(seed=None).seed == 2


def test_a_wrong_value_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GCA_PROFILE", "staging")
    with pytest.raises(ConfigurationError, match=r"GCA_PROFILE.*'dev' or 'prod'.*\.env\.example"):
        load_settings()


def test_results_lie_under_home_unless_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GCA_HOME", str(tmp_path / "home"))
    assert load_settings().results_root() == (tmp_path / "home" / "results").as_uri()
    assert load_settings(results_uri="gs://bucket/r").results_root() == "gs://bucket/r"
    assert load_settings().profile is Profile.DEV


def test_a_database_password_is_not_printed() -> None:
    settings = load_settings(atlas_dsn="postgresql://u:secret-word@h/db")
    assert "secret-word" not in repr(settings)
    assert "secret-word" not in settings.model_dump_json()


def test_every_setting_stands_in_the_example_file() -> None:
    example = Path(__file__).parents[3].joinpath(".env.example").read_text()
    missing = [name for name in type(load_settings()).model_fields if f"GCA_{name.upper()}=" not in example]
    assert missing == []


def test_a_key_in_the_environment_is_not_consent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    assert load_settings().llm is None


def test_a_missing_module_names_the_extra_that_brings_it() -> None:
    with pytest.raises(ConfigurationError, match=r"pip install 'airflow-provider-gca\[scanpy\]'"):
        require("no_such_module_at_all", "scanpy")
