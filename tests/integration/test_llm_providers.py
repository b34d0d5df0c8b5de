"""The providers' own clients against a loopback server: pauses, errors, text, tokens and tools are understood."""

import json
from typing import Any, Literal

import pytest
from pydantic import SecretStr

from gca_core.haystack.agent.conversation import Session
from gca_core.haystack.agent.reading import READER, ReadQuestion
from gca_core.haystack.agent.tools import make_tools
from gca_core.haystack.context import open_knowledge
from gca_core.haystack.models import IterationConfig
from gca_core.llm.chat import ChatClient
from gca_core.llm.failures import ProviderError
from gca_core.llm.meter import Meter
from gca_core.llm.models import ChatOptions, LlmConfig, Provider
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


# how each says that a tool is wanted, and then that it is done
CALLED = {"cell_type_id": "CL:0000236", "perturbation": "interferon beta", "doubt": ""}
ANTHROPIC, GOOGLE = REPLIES["anthropic"], REPLIES["google"]
OPENAI: dict[str, Any] = {"id": "x", "object": "chat.completion", "created": 1, "model": "m",
                          "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}}  # fmt: skip
ARGUMENTS = {"text": "B cells"}


def openai(message: dict[str, Any], reason: str) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": reason, "message": {"role": "assistant", **message}}
    return OPENAI | {"choices": [choice]}


def google(*parts: dict[str, Any]) -> dict[str, Any]:
    return GOOGLE | {"candidates": [{"content": {"role": "model", "parts": list(parts)}, "finishReason": "STOP"}]}


CALL = {"id": "t1", "type": "function", "function": {"name": "resolve_cell_type", "arguments": json.dumps(ARGUMENTS)}}
IN_OPENAI = [
    openai({"content": None, "tool_calls": [CALL]}, "tool_calls"),
    openai({"content": json.dumps(CALLED)}, "stop"),
]
WITH_TOOLS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "openai": ("langchain_openai", IN_OPENAI),
    "openai-compatible": ("langchain_openai", IN_OPENAI),
    "anthropic": (
        "langchain_anthropic",
        [
            ANTHROPIC
            | {
                "content": [{"type": "tool_use", "id": "t1", "name": "resolve_cell_type", "input": ARGUMENTS}],
                "stop_reason": "tool_use",
            },
            ANTHROPIC | {"content": [{"type": "text", "text": json.dumps(CALLED)}]},
        ],
    ),
    "google": (
        "langchain_google_genai",
        [
            google({"functionCall": {"name": "resolve_cell_type", "args": ARGUMENTS}}),
            google({"text": json.dumps(CALLED)}),
        ],
    ),
}


@pytest.mark.parametrize("provider", WITH_TOOLS)
def test_a_sub_agent_calls_tools_by_every_provider(provider: Provider) -> None:
    package, replies = WITH_TOOLS[provider]
    pytest.importorskip(package, reason="the extra of this provider is not installed")
    context = open_knowledge()
    tools = {tool.name: tool for tool in make_tools(context)}
    with serve(in_turn(*map(reply, replies))) as server:
        url = f"{server.url}/v1" if package == "langchain_openai" else server.url
        config = LlmConfig(provider=provider, model="m", base_url=url, api_key=SecretStr("sk-given"))
        session = Session.of(config, IterationConfig(max_model_calls=3))
        read = session.converse(READER, "<question>B cells with IFN-b?</question>", ReadQuestion, tools)
    assert read == ReadQuestion(**CALLED)
    (report,) = session.reports
    assert (report.calls, report.input_tokens, report.model) == (2, 14, f"{provider}:m")
    assert report.turns[0].tools == ('resolve_cell_type {"text": "B cells"}',)
    assert not report.turns[0].refused and "sk-given" not in report.model_dump_json()
