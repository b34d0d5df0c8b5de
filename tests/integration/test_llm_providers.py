"""Anthropic's and Google's own clients against a loopback server: pauses, errors, text and tokens are understood."""

import json
from typing import Any, Literal

import pytest
from pydantic import SecretStr

from gca_core.llm.chat import ChatClient
from gca_core.llm.failures import ProviderError
from gca_core.llm.meter import Meter
from gca_core.llm.models import ChatOptions, LlmConfig
from tests.helpers.knowledge_loopback import Reply, Responder, serve

REPLIES: dict[str, dict[str, Any]] = {
    "anthropic": {
        "id": "x",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": "hello"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 7, "output_tokens": 2},
    },
    "google": {
        "candidates": [{"content": {"role": "model", "parts": [{"text": "hello"}]}, "finishReason": "STOP"}],
        "usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 2, "totalTokenCount": 9},
    },
}
SLOW = {"error": {"message": "slow", "type": "rate_limit_error", "code": 429, "status": "RESOURCE_EXHAUSTED"}}
WRONG = {"error": {"message": "no sk-given", "type": "authentication_error", "code": 401, "status": "UNAUTHENTICATED"}}
PACKAGES = [("anthropic", "langchain_anthropic"), ("google", "langchain_google_genai")]


def in_turn(*replies: Reply) -> Responder:
    """These answers in turn, the last one for ever."""
    return lambda _call, number: replies[min(number, len(replies) - 1)]


def reply(body: dict[str, Any], status: int = 200, **headers: str) -> Reply:
    return Reply(json.dumps(body), status, {"content-type": "application/json", **headers})


def client(provider: Literal["anthropic", "google"], url: str, meter: Meter) -> ChatClient:
    config = LlmConfig(provider=provider, model="m", base_url=url, api_key=SecretStr("sk-given"))
    return ChatClient(config, ChatOptions(timeout_s=10.0), meter=meter)


@pytest.mark.parametrize(("provider", "package"), PACKAGES)
def test_a_pause_is_kept_and_the_answer_read(provider: Literal["anthropic", "google"], package: str) -> None:
    pytest.importorskip(package, reason="the extra of this provider is not installed")
    meter = Meter()
    answers = in_turn(reply(SLOW, 429, **{"retry-after": "1"}), reply(REPLIES[provider]))
    with serve(answers) as server:
        said = client(provider, server.url, meter).complete([("system", "be brief"), ("human", "hi")])
    assert (said.text, said.truncated) == ("hello", False)
    first, second = server.calls
    assert second.at - first.at >= 1.0
    assert (meter.usage.input_tokens, meter.usage.output_tokens, meter.usage.calls) == (7, 2, 2)


@pytest.mark.parametrize(("provider", "package"), PACKAGES)
def test_a_rejected_key_is_tried_once_and_not_shown(provider: Literal["anthropic", "google"], package: str) -> None:
    pytest.importorskip(package, reason="the extra of this provider is not installed")
    rejected = pytest.raises(ProviderError, match=r"HTTP 401.*check the API key")
    with serve(in_turn(reply(WRONG, 401))) as server, rejected as raised:
        client(provider, server.url, Meter()).complete([("human", "hi")])
    assert "sk-given" not in str(raised.value)
    assert len(server.calls) == 1
