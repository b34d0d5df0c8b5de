"""Anthropic's and Google's own clients against a loopback server: pauses, errors, text and tokens are understood."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

import pytest
from pydantic import SecretStr

from gca_core.llm.chat import ChatClient
from gca_core.llm.failures import ProviderError
from gca_core.llm.meter import Meter
from gca_core.llm.models import ChatOptions, LlmConfig

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


@contextmanager
def serving(*steps: tuple[int, dict[str, Any], dict[str, str]]) -> Iterator[tuple[str, list[float]]]:
    """A server that answers with status, body and headers in turn, the last one for ever; and when it was asked."""
    asked: list[float] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            asked.append(time.monotonic())
            status, body, headers = steps[min(len(asked), len(steps)) - 1]
            data = json.dumps(body).encode()
            self.send_response(status)
            for name, value in {
                "Content-Type": "application/json",
                "Content-Length": str(len(data)),
                **headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)


def client(provider: Literal["anthropic", "google"], url: str, meter: Meter) -> ChatClient:
    config = LlmConfig(provider=provider, model="m", base_url=url, api_key=SecretStr("sk-given"))
    return ChatClient(config, ChatOptions(timeout_s=10.0), meter=meter)


@pytest.mark.parametrize(("provider", "package"), PACKAGES)
def test_a_pause_is_kept_and_the_answer_read(provider: Literal["anthropic", "google"], package: str) -> None:
    pytest.importorskip(package, reason="the extra of this provider is not installed")
    meter = Meter()
    with serving((429, SLOW, {"Retry-After": "1"}), (200, REPLIES[provider], {})) as (url, asked):
        reply = client(provider, url, meter).complete([("system", "be brief"), ("human", "hi")])
    assert (reply.text, reply.truncated) == ("hello", False)
    assert asked[1] - asked[0] >= 1.0
    assert (meter.usage.input_tokens, meter.usage.output_tokens, meter.usage.calls) == (7, 2, 2)


@pytest.mark.parametrize(("provider", "package"), PACKAGES)
def test_a_rejected_key_is_tried_once_and_not_shown(provider: Literal["anthropic", "google"], package: str) -> None:
    pytest.importorskip(package, reason="the extra of this provider is not installed")
    rejected = pytest.raises(ProviderError, match=r"HTTP 401.*check the API key")
    with serving((401, WRONG, {})) as (url, asked), rejected as raised:
        client(provider, url, Meter()).complete([("human", "hi")])
    assert "sk-given" not in str(raised.value)
    assert len(asked) == 1
