"""Which model is meant."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from airflow_provider_gca.hooks.connection_forms import LLM_PROVIDERS
from gca_core.errors import ConfigurationError
from gca_core.llm.models import PROVIDERS, LlmConfig, TokenPrice, parse_model, parse_price


@pytest.mark.parametrize(
    ("text", "provider", "model", "base_url"),
    [
        ("openai:gpt-4o-mini", "openai", "gpt-4o-mini", None),
        (" anthropic:a-model ", "anthropic", "a-model", None),
        ("google:models/g@001", "google", "models/g@001", None),
        (
            "openai-compatible:llama3:8b@http://localhost:11434/v1",
            "openai-compatible",
            "llama3:8b",
            "http://localhost:11434/v1",
        ),
        ("openai:m@https://gateway.example.org/v1", "openai", "m", "https://gateway.example.org/v1"),
    ],
)
def test_a_model_is_named_by_provider_and_model_and_perhaps_an_address(text, provider, model, base_url):
    found = parse_model(text)
    assert (found.provider, found.model, found.base_url) == (provider, model, base_url)
    assert parse_model(found.identity) == found


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("gpt-4o-mini", "provider 'gpt-4o-mini' is not known; use one of openai, anthropic"),
        ("OpenAI:m", "provider 'OpenAI' is not known"),
        ("openai:", "no model is named"),
        ("", "provider '' is not known"),
        ("openai-compatible:m", "needs the base URL"),
        ("openai-compatible:m@http://", "is none"),
        ("openai-compatible:m@http://host:port/v1", "is none"),
        ("openai-compatible:m@http://[::1/v1", "is none"),
    ],
)
def test_a_name_that_does_not_fit_says_what_does(text: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint.replace("[", r"\[")):
        parse_model(text)


@pytest.mark.parametrize("address", ["http://user:sk-secret@host/v1", "https://host/v1?key=sk-secret"])
def test_an_address_with_a_secret_is_refused_without_showing_it(address: str) -> None:
    with pytest.raises(ConfigurationError, match="give the key apart") as raised:
        parse_model(f"openai-compatible:m@{address}")
    assert "sk-secret" not in str(raised.value)


@given(st.text(max_size=60))
def test_any_text_gives_a_model_or_a_configuration_error(text: str) -> None:
    try:
        found = parse_model(text)
    except ConfigurationError:
        return
    assert found.provider in PROVIDERS
    assert found.model


def test_a_key_shows_nowhere() -> None:
    config = LlmConfig(provider="openai", model="m", api_key=SecretStr("sk-secret"))
    for shown in (repr(config), str(config), config.model_dump_json(), config.name, config.identity):
        assert "sk-secret" not in shown


def test_the_connection_form_offers_the_providers_that_can_be_called() -> None:
    assert LLM_PROVIDERS == PROVIDERS


def test_a_price_is_stated_per_million_tokens() -> None:
    price = TokenPrice(input_per_million=0.5, output_per_million=2.0)
    assert parse_price("openai:m = 0.5, 2") == ("openai:m", price)
    assert parse_price("openai-compatible:m=0.5,2,EUR")[1] == price.model_copy(update={"currency": "EUR"})


@pytest.mark.parametrize(
    "text", ["", "m", "m=", "m=1", "=1,2", "m=1,2,EUR,x", "m=-1,2", "m=nan,2", "m=one,two", "m=1,2,"]
)
def test_a_price_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="expected provider:model=INPUT,OUTPUT"):
        parse_price(text)
