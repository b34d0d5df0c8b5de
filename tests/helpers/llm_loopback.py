"""An OpenAI-compatible chat server on this machine that answers as a test tells it to."""

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from gca_core.annotation.markers.database import MarkerDatabase
from gca_core.knowledge.bundled.ontology import load_ontology

DRIP_S = 0.1


@dataclass(frozen=True)
class Answer:
    """What the server does with a request: an HTTP answer, after a while, or only half of it.

    ``drip_s`` is how long spaces, which count as life, come before the text. ``tool_calls`` are pairs of a tool's name
    and its arguments that the model wants called.
    """

    text: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    cut: bool = False
    drip_s: float = 0.0
    usage: bool = True
    finish_reason: str = "stop"
    tool_calls: tuple[tuple[str, dict[str, Any]], ...] = ()


@dataclass
class Request:
    """What arrived."""

    body: dict[str, Any]
    raw: str
    authorization: str
    at: float

    @property
    def clusters(self) -> list[dict[str, Any]]:
        """The clusters of the latest prompt with data."""
        prompt = next(m["content"] for m in self.body["messages"] if m["role"] == "user")
        return list(json.loads(prompt[prompt.index("{") :])["clusters"])


Responder = Callable[[Request, int], Answer]
Namer = Callable[[Request], list[dict[str, Any]]]


def say(clusters: list[dict[str, Any]]) -> Answer:
    """An answer as the prompt asks for it."""
    return Answer(json.dumps({"clusters": clusters}))


def name_by_markers(database: MarkerDatabase, terms: Iterable[str]) -> Namer:
    """A model that knows its markers: of ``terms``, the one with most of the genes that were sent."""
    ontology = load_ontology()
    markers = {ontology.label(t.ontology_id): set(t.positive) for term in terms if (t := database.get(term))}

    def name(request: Request) -> list[dict[str, Any]]:
        return [
            {
                "id": cluster["id"],
                "label": max(markers, key=lambda label: len(markers[label] & set(cluster["markers"]))),
                "confidence": "High",
                "rationale": "as its markers say",
            }
            for cluster in request.clusters
        ]

    return name


class LoopbackServer:
    """Requests in the order of their arrival, and how many were under way at a time."""

    def __init__(self, respond: Responder) -> None:
        self.respond = respond
        self.requests: list[Request] = []
        self.most_at_once = 0
        self._under_way = 0
        self._lock = threading.Lock()
        server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        server.daemon_threads = True
        self._server = server
        self.url = f"http://127.0.0.1:{server.server_address[1]}/v1"

    @contextmanager
    def running(self) -> Iterator["LoopbackServer"]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join(timeout=5)

    def take(self, raw: bytes, authorization: str) -> Answer:
        with self._lock:
            request = Request(json.loads(raw), raw.decode(), authorization, time.monotonic())
            self.requests.append(request)
            number = len(self.requests)
            self._under_way += 1
            self.most_at_once = max(self.most_at_once, self._under_way)
        try:
            answer = self.respond(request, number)
            time.sleep(answer.delay_s)
            return answer
        finally:
            with self._lock:
                self._under_way -= 1

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        loopback = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["Content-Length"]))
                answer = loopback.take(raw, self.headers.get("Authorization", ""))
                spaces = int(answer.drip_s / DRIP_S)
                data = _body(answer, raw)
                try:
                    self.send_response(answer.status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(spaces + len(data)))
                    for name, value in answer.headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    for _ in range(spaces):
                        self.wfile.write(b" ")
                        time.sleep(DRIP_S)
                    self.wfile.write(data[: len(data) // 2] if answer.cut else data)
                    self.close_connection = self.close_connection or answer.cut
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

            def log_message(self, *args: Any) -> None:
                pass

        return Handler


def _body(answer: Answer, request: bytes) -> bytes:
    if answer.status != 200:
        return json.dumps({"error": {"message": answer.text, "type": "error", "code": None}}).encode()
    body: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "loopback",
        "choices": [
            {
                "index": 0,
                "finish_reason": answer.finish_reason,
                "message": {"role": "assistant", "content": answer.text},
            }
        ],
    }
    if answer.tool_calls:
        body["choices"][0] |= {"finish_reason": "tool_calls"}
        body["choices"][0]["message"] |= {
            "tool_calls": [
                {"id": f"call-{i}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
                for i, (name, arguments) in enumerate(answer.tool_calls)
            ]
        }
    if answer.usage:
        spent = {"prompt_tokens": len(request) // 4, "completion_tokens": len(answer.text) // 4}
        body["usage"] = spent | {"total_tokens": sum(spent.values())}
    return json.dumps(body).encode()
