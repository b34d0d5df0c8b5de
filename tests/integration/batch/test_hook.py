"""Which client the hook makes of a connection, and with which credentials."""

import asyncio
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth.credentials import AnonymousCredentials

from airflow_provider_gca.hooks.batch import StackBatchHook
from gca_core.errors import ConfigurationError

REGIONAL = "batch.us-east1.rep.googleapis.com"


@pytest.fixture(scope="module")
def key() -> str:
    made = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    kinds = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return made.private_bytes(*kinds).decode()


@pytest.fixture
def connection(key: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Define the connection ``lab``, with a service account's key in its extra."""

    def define(**extra: Any) -> None:
        account = {"type": "service_account", "client_email": "a@lab.iam", "private_key": key}
        account |= {"token_uri": "https://oauth2.googleapis.com/token", "project_id": "of-the-key"}
        fields = {"conn_type": "google_cloud_platform", "extra": {"keyfile_dict": json.dumps(account), **extra}}
        monkeypatch.setenv("AIRFLOW_CONN_LAB", json.dumps(fields))

    return define


@pytest.mark.parametrize("endpoint", [None, REGIONAL, f"https://{REGIONAL}"])
@pytest.mark.parametrize("transport", ["rest", "grpc"])
def test_the_credentials_of_the_connection_go_to_google(connection: Any, endpoint: str | None, transport: str) -> None:
    connection(transport=transport)
    hook = StackBatchHook("lab", api_endpoint=endpoint)
    client = hook.get_conn()
    host = (endpoint or "batch.googleapis.com").removeprefix("https://")
    assert client.transport.kind == transport
    assert client.api_endpoint.removesuffix(":443") == host
    assert client.transport._credentials.service_account_email == "a@lab.iam"
    assert hook.project_id == "of-the-key"

    async def asynchronous() -> None:
        client = await StackBatchHook("lab", api_endpoint=endpoint).get_async_conn()
        assert client.transport.kind == "grpc_asyncio"
        assert client.api_endpoint.removesuffix(":443") == host

    asyncio.run(asynchronous())


def test_a_server_of_this_machine_gets_no_credentials(connection: Any) -> None:
    connection(project="given", api_endpoint="http://127.0.0.1:9", api_endpoint_grpc="http://localhost:10")
    hook = StackBatchHook("lab")
    assert isinstance(hook.get_conn().transport._credentials, AnonymousCredentials)
    assert hook.get_conn().transport._host == "http://127.0.0.1:9"
    assert StackBatchHook("lab", transport="grpc").get_conn().transport.kind == "grpc"
    assert hook.project_id == "given"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"api_endpoint": "http://batch.googleapis.com"}, "not encrypted"),
        ({"api_endpoint": "http://127.0.0.1@evil.example"}, "not encrypted"),
        ({"transport": "soap"}, "use one of rest, grpc"),
    ],
)
def test_what_would_send_credentials_in_the_clear_is_refused(connection: Any, given: Any, words: str) -> None:
    connection()
    with pytest.raises(ConfigurationError, match=words):
        StackBatchHook("lab", **given).get_conn()
