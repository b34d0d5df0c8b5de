"""Chat models are made for what was named, with the key and address meant for it."""

import subprocess
import sys

import pytest
from pydantic import SecretStr

from gca_core.errors import ConfigurationError
from gca_core.llm import factory
from gca_core.llm.factory import check_ready, find_key, make_chat_model
from gca_core.llm.models import ChatOptions, LlmConfig, parse_model


@pytest.fixture(autouse=True)
def no_keys_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GOOGLE_API_KEY", "GEMINI_API_KEY", "GCA_LLM_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def test_a_providers_key_is_used_for_its_own_address_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    assert find_key(parse_model("openai:m")).get_secret_value() == "sk-openai"
    local = parse_model("openai-compatible:m@http://localhost:1/v1")
    assert find_key(local).get_secret_value() == "none"
    with pytest.raises(ConfigurationError, match="GCA_LLM_API_KEY"):
        find_key(parse_model("openai:m@https://gateway.example.org/v1"))
    monkeypatch.setenv("GCA_LLM_API_KEY", "for-the-address")
    assert find_key(local).get_secret_value() == "for-the-address"
    assert find_key(parse_model("openai:m")).get_secret_value() == "sk-openai"
    given = LlmConfig(provider="openai", model="m", api_key=SecretStr("given"))
    assert find_key(given).get_secret_value() == "given"


@pytest.mark.parametrize(
    ("name", "variable"),
    [("openai:m", "OPENAI_API_KEY"), ("anthropic:m", "ANTHROPIC_API_KEY"), ("google:m", "GOOGLE_API_KEY")],
)
def test_a_missing_key_says_which_variable_holds_it(name: str, variable: str) -> None:
    with pytest.raises(ConfigurationError, match=variable):
        find_key(parse_model(name))


def test_a_missing_package_says_which_extra_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    home = ("a_package_that_is_not_there", "openai", "https://api.openai.com/v1", ("OPENAI_API_KEY",))
    monkeypatch.setitem(factory._HOMES, "openai", home)
    monkeypatch.setenv("OPENAI_API_KEY", "sk")
    with pytest.raises(ConfigurationError, match=r"airflow-provider-gca\[openai\]"):
        check_ready(parse_model("openai:m"))


def test_variables_of_other_tools_redirect_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_BASE_URL", "OPENAI_API_BASE", "LANGSMITH_GATEWAY"):
        monkeypatch.setenv(name, "http://elsewhere.example.org/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    made = make_chat_model(parse_model("openai:m"), ChatOptions())
    assert made.openai_api_base == "https://api.openai.com/v1"  # type: ignore[attr-defined]
    assert made.max_retries == 0  # type: ignore[attr-defined]
    assert "sk-openai" not in repr(made)


@pytest.mark.parametrize(
    ("provider", "module", "address"),
    [
        ("anthropic", "langchain_anthropic", "anthropic_api_url"),
        ("google", "langchain_google_genai", "base_url"),
    ],
)
def test_the_other_providers_are_made_alike(provider, module, address, monkeypatch):
    pytest.importorskip(module, reason="the extra of this provider is not installed")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://elsewhere.example.org")
    monkeypatch.setenv("GOOGLE_GENAI_USE_VERTEXAI", "true")
    config = LlmConfig(provider=provider, model="m", api_key=SecretStr("sk-given"))  # type: ignore[arg-type]
    made = make_chat_model(config, ChatOptions(timeout_s=7.0))
    assert str(getattr(made, address)).startswith(("https://api.anthropic.com", "https://generativelanguage."))
    assert made.temperature == 0.2  # type: ignore[attr-defined]
    assert "sk-given" not in repr(made)


def test_naming_a_model_imports_no_providers_package() -> None:
    code = (
        "import sys; from gca_core.llm.chat import ChatClient; from gca_core.llm.models import parse_model; "
        "ChatClient(parse_model('openai-compatible:m@http://localhost:1/v1')); "
        "print([m for m in ('langchain_openai', 'langchain_core', 'openai') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
