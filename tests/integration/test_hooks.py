import asyncio
import json
import logging
from typing import Any

import pytest
from pydantic import SecretStr

from airflow_provider_gca.hooks.atlas import AtlasHook
from airflow_provider_gca.hooks.llm import LlmHook
from gca_core.config import Settings
from gca_core.errors import ConfigurationError
from gca_core.llm.models import LlmConfig
from gca_core.store.redact import parse_dsn
from tests.helpers.dag_runs import understand
from tests.helpers.llm_loopback import Answer, LoopbackServer

pytestmark = pytest.mark.usefixtures("airflow_home")

SECRET = "pa ss'w@rd/%41"


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Define an Airflow connection in the environment."""

    def define(conn_id: str, **fields: Any) -> None:
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(fields))

    return define


def test_the_default_connection_of_both_kinds_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GCA_ATLAS_DSN", "postgresql://u:p@db.example:6543/atlas")
    assert AtlasHook().get_dsn() == "postgresql://u:p@db.example:6543/atlas"
    assert LlmHook().get_conn() is None


def test_a_connection_that_was_named_has_to_exist() -> None:
    with pytest.raises(ConfigurationError, match="'nobody' does not exist; create it"):
        AtlasHook("nobody").get_dsn()
    with pytest.raises(ConfigurationError, match="'nobody' does not exist; create it"):
        LlmHook("nobody").get_conn()


@pytest.mark.parametrize("conn_type", ["gca_atlas", "postgres"])
def test_a_connections_fields_become_the_dsn(connection: Any, conn_type: str) -> None:
    extra = {"sslmode": "verify-full", "cursor": "dictcursor", "sslrootcert": "/certs/ca.pem"}
    connection(
        "atlas",
        conn_type=conn_type,
        host="10.0.0.5",
        port=5433,
        schema="gca",
        login="app",
        password=SECRET,
        extra=extra,
    )
    assert parse_dsn(AtlasHook("atlas").get_dsn()) == {
        "host": "10.0.0.5",
        "port": "5433",
        "dbname": "gca",
        "user": "app",
        "password": SECRET,
        "sslmode": "verify-full",
        "sslrootcert": "/certs/ca.pem",
    }


def test_a_connection_wins_over_the_settings(connection: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GCA_ATLAS_DSN", "postgresql://u:p@settings.example/atlas")
    connection("gca_atlas_default", conn_type="gca_atlas", host="connection.example", schema="gca")
    assert parse_dsn(AtlasHook().get_dsn())["host"] == "connection.example"


def test_a_connection_of_another_type_or_without_a_host_is_refused(connection: Any) -> None:
    connection("elsewhere", conn_type="mysql", host="db")
    with pytest.raises(ConfigurationError, match="of type 'mysql'; the atlas needs one of gca_atlas, postgres"):
        AtlasHook("elsewhere").get_dsn()
    connection("nowhere", conn_type="gca_atlas", schema="gca")
    with pytest.raises(ConfigurationError, match="names no host"):
        AtlasHook("nowhere").get_dsn()


def test_the_prod_profile_never_falls_back_to_an_embedded_server() -> None:
    hook = AtlasHook(settings=Settings(profile="prod"))
    with pytest.raises(ConfigurationError, match="GCA_ATLAS_DSN"):
        hook.get_dsn()


def test_connecting_to_a_database_that_is_down_is_answered_with_advice_and_without_the_password(connection, caplog):
    connection("down", conn_type="gca_atlas", host="127.0.0.1", port=9, schema="gca", login="app", password=SECRET)
    with caplog.at_level(logging.DEBUG):
        works, message = AtlasHook("down").test_connection()
    assert not works
    assert "127.0.0.1" in message
    assert SECRET not in message + caplog.text


def test_a_trigger_finds_the_same_connection_without_blocking(connection: Any) -> None:
    connection("atlas", conn_type="gca_atlas", host="10.0.0.5", schema="gca")
    found = asyncio.run(AtlasHook("atlas").find_connection_async())
    assert found.host == "10.0.0.5"
    assert asyncio.run(AtlasHook().find_connection_async()) is None
    with pytest.raises(ConfigurationError, match="does not exist"):
        asyncio.run(AtlasHook("nobody").find_connection_async())


def test_an_llm_connection_gives_the_model_and_hides_the_key(connection: Any) -> None:
    extra = {"provider": "openai", "model": "a-model"}
    connection("llm", conn_type="gca_llm", password="sk-very-secret", extra=extra)
    config = LlmHook("llm").get_conn()
    assert (config.name, config.base_url) == ("openai:a-model", None)
    assert config.api_key == SecretStr("sk-very-secret")
    for shown in (repr(config), str(config), config.model_dump_json(), str(LlmHook("llm").test_connection())):
        assert "sk-very-secret" not in shown


def test_a_step_may_ask_the_model_of_its_connection_and_no_other(connection, settings, embedded_dsn, monkeypatch):
    connection("llm", conn_type="gca_llm", password="sk-x", extra={"provider": "anthropic", "model": "m"})
    monkeypatch.setenv("GCA_LLM", "openai:another")
    hook = AtlasHook(settings=settings.model_copy(update={"llm": "openai:another"}))
    found = [hook.get_haystack_context(name).language_model for name in (None, "llm", "gca_llm_default")]
    assert [model and model.name for model in found] == [None, "anthropic:m", "openai:another"]
    assert found[1].api_key == SecretStr("sk-x")
    others = [hook.get_haystack_context(name, "n").language_model.name for name in ("llm", "gca_llm_default")]
    assert others == ["anthropic:n", "openai:n"]


def test_the_loop_asks_the_model_of_its_connection(connection, settings, embedded_dsn, monkeypatch):
    monkeypatch.setenv("GCA_HOME", str(settings.home))
    answer = {"cell_type_id": "CL:0000091", "perturbation": "dexamethasone"}
    with LoopbackServer(lambda *_: Answer(json.dumps(answer))).running() as server:
        extra = {"provider": "openai-compatible", "model": "small", "base_url": server.url}
        connection("llm", conn_type="gca_llm", password="sk-x", extra=extra)
        question = "How do Browicz-Kupfer cells take dexamethasone?"
        read = understand(question, "llm")
    assert (read["cell_type"], read["reader"]) == ("Kupffer cell", "openai-compatible:small")
    assert read["reading"]["agent"] == "query_understanding" and "sk-x" not in json.dumps(read)
    assert server.requests[0].authorization == "Bearer sk-x"
    with pytest.raises(Exception, match="Browicz"):
        understand(question)


@pytest.mark.parametrize(
    ("extra", "complaint"),
    [
        ({"provider": "somebody", "model": "m"}, "provider 'somebody' is not known"),
        ({"provider": "openai"}, "no model is named"),
        ({"provider": "openai-compatible", "model": "m"}, "base URL"),
    ],
)
def test_an_incomplete_llm_connection_says_what_is_missing(connection, extra, complaint):
    connection("llm", conn_type="gca_llm", extra=extra)
    works, message = LlmHook("llm").test_connection()
    assert not works
    assert complaint in message


def test_the_settings_name_a_model_only_when_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-lies-around")
    assert LlmHook().get_conn() is None
    monkeypatch.setenv("GCA_LLM", "openai:a-model")
    assert LlmHook().get_conn() == LlmConfig(provider="openai", model="a-model")


def test_only_a_missing_connection_counts_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("the secrets backend is away")

    monkeypatch.setattr(AtlasHook, "get_connection", broken)
    with pytest.raises(RuntimeError, match="away"):
        AtlasHook().find_connection()
