"""The real OpenAI client against a server on this machine."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from gca_core.config import load_settings
from gca_core.errors import ConfigurationError, LLMError
from gca_core.llm.embeddings import HashedTextEmbeddings, ProviderEmbeddings, open_embeddings
from gca_core.llm.models import parse_model

KEY = "sk-secret-of-a-test"


class EmbeddingServer:
    """Answers as OpenAI's embeddings endpoint does, and keeps what arrived."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, Any], str]] = []
        self.status = 200
        self.dim: int | None = None
        server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        server.daemon_threads = True
        self.server = server
        self.url = f"http://127.0.0.1:{server.server_address[1]}/v1"

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        vectors = HashedTextEmbeddings(self.dim or body["dimensions"]).embed_documents(texts)
        rows = [{"object": "embedding", "index": i, "embedding": _encoded(v, body)} for i, v in enumerate(vectors)]
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        return {"object": "list", "data": rows, "model": body["model"], "usage": usage}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        own = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                own.requests.append((body, self.headers.get("Authorization", "")))
                good = own.status == 200
                value = own.answer(body) if good else {"error": {"message": f"no: {KEY}", "type": "x", "code": None}}
                data = json.dumps(value).encode()
                self.send_response(own.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                pass

        return Handler


def _encoded(vector: list[float], body: dict[str, Any]) -> Any:
    if body.get("encoding_format") != "base64":
        return vector
    # three times the length, so that the client has to normalise
    return base64.b64encode((3 * np.asarray(vector)).astype("<f4").tobytes()).decode()


@pytest.fixture
def server() -> Iterator[EmbeddingServer]:
    own = EmbeddingServer()
    thread = threading.Thread(target=own.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield own
    own.server.shutdown()
    own.server.server_close()
    thread.join(timeout=5)


@pytest.fixture
def embeddings(server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch) -> ProviderEmbeddings:
    monkeypatch.setenv("GCA_LLM_API_KEY", KEY)
    return ProviderEmbeddings(parse_model(f"openai-compatible:text-embedding-3-large@{server.url}"))


def test_texts_become_vectors_of_1536_numbers_and_length_1(embeddings, server):
    vectors = np.asarray(embeddings.embed_documents(["interferon beta", "dexamethasone"]))
    assert vectors.shape == (2, 1536)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0)
    expected = HashedTextEmbeddings().embed_documents(["interferon beta", "dexamethasone"])
    assert vectors == pytest.approx(np.asarray(expected), abs=1e-6)
    body, authorization = server.requests[0]
    assert (body["model"], body["dimensions"]) == ("text-embedding-3-large", 1536)
    assert body["input"] == ["interferon beta", "dexamethasone"]
    assert authorization == f"Bearer {KEY}"
    assert embeddings.model == "text-embedding-3-large-1536"


def test_many_texts_go_in_parts_and_come_back_in_order(embeddings: ProviderEmbeddings, server: EmbeddingServer) -> None:
    texts = [f"compound {number}" for number in range(300)]
    assert np.asarray(embeddings.embed_documents(texts)) == pytest.approx(
        np.asarray(HashedTextEmbeddings().embed_documents(texts)), abs=1e-6
    )
    assert len(server.requests) == 2


def test_both_are_embeddings_of_langchain(embeddings: ProviderEmbeddings) -> None:
    base = pytest.importorskip("langchain_core.embeddings").Embeddings
    assert isinstance(embeddings, base)
    assert isinstance(HashedTextEmbeddings(), base)


def test_a_refusal_says_so_without_the_key(embeddings: ProviderEmbeddings, server: EmbeddingServer) -> None:
    server.status = 401
    with pytest.raises(LLMError, match="HTTP 401") as caught:
        embeddings.embed_query("interferon beta")
    assert KEY not in str(caught.value)


def test_vectors_of_another_size_are_refused(embeddings: ProviderEmbeddings, server: EmbeddingServer) -> None:
    server.dim = 8
    with pytest.raises(LLMError, match="expected 1536 numbers"):
        embeddings.embed_query("interferon beta")


def test_settings_choose_the_embeddings(server: EmbeddingServer) -> None:
    assert open_embeddings(load_settings()).model == "hashed-text-1536"
    named = load_settings(embeddings=f"openai-compatible:some-model@{server.url}")
    assert open_embeddings(named).model == "some-model-1536"
    with pytest.raises(ConfigurationError, match="makes no embeddings"):
        open_embeddings(load_settings(embeddings="anthropic:some-model"))


def test_a_key_in_the_environment_is_no_consent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert open_embeddings(load_settings()).model == "hashed-text-1536"
