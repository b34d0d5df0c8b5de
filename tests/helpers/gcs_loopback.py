"""A server on this machine that keeps objects as Google Cloud Storage does: generations, preconditions, listings."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import fsspec
import pytest


@dataclass
class Bucket:
    """Objects by name, each with its generation; ``url`` is the server's, and ``authorisations`` what it was shown."""

    url: str = ""
    authorisations: list[str | None] = field(default_factory=list)
    objects: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    n_written: int = 0
    # answers nobody
    closed: bool = False
    # so many requests are answered by 503
    busy: int = 0
    # the end of names that may not be written
    forbidden: str | None = None

    def put(self, name: str, content: bytes, query: dict[str, str]) -> bool:
        """Whether the precondition held, and the object was written."""
        with self.lock:
            wanted = query.get("ifGenerationMatch")
            if wanted is not None and int(wanted) != self.objects.get(name, (b"", 0))[1]:
                return False
            self.n_written += 1
            self.objects[name] = (content, self.n_written)
            return True

    def listing(self, query: dict[str, str]) -> dict[str, Any]:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        items, prefixes = [], set()
        for name in sorted(self.objects):
            rest = name.removeprefix(prefix)
            if not name.startswith(prefix):
                continue
            if delimiter and delimiter in rest:
                prefixes.add(prefix + rest.split(delimiter)[0] + delimiter)
            else:
                items.append(self.described(name))
        return {"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)}

    def described(self, name: str) -> dict[str, Any]:
        content, generation = self.objects[name]
        times = dict.fromkeys(("updated", "timeCreated"), "2030-01-31T12:00:00.000Z")
        return {"name": name, "bucket": "lab", "size": str(len(content)), "generation": str(generation), **times}


@contextmanager
def gcs() -> Iterator[Bucket]:
    """Serve the bucket ``lab`` for the time of the block."""
    bucket = Bucket()
    begun: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def parse_request(self) -> bool:
            if not super().parse_request():
                return False
            with bucket.lock:
                busy, bucket.busy = bucket.busy > 0, max(bucket.busy - 1, 0)
            if busy:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                self._answer(503, {"error": {"code": 503, "message": "busy"}})
            return not busy

        def do_GET(self) -> None:
            name, query = self._asked()
            if bucket.closed:
                self._answer(401, {"error": {"code": 401, "message": "Anonymous caller has no access"}})
            elif name == "":
                self._answer(200, bucket.listing(query))
            elif name not in bucket.objects:
                self._answer(404, {"error": {"code": 404, "message": "No such object"}})
            elif query.get("alt") == "media":
                self._send(bucket.objects[name][0])
            else:
                self._answer(200, bucket.described(name))

        def _send(self, content: bytes) -> None:
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range", ""))
            if asked is None:
                self._answer(200, content)
                return
            start, end = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
            if start >= len(content):
                self._answer(416, b"")
                return
            told = {"content-range": f"bytes {start}-{end}/{len(content)}"}
            self._answer(206, content[start : end + 1], **told)

        def do_POST(self) -> None:
            name, query = self._asked()
            body = self.rfile.read(int(self.headers["content-length"]))
            if "/rewriteTo/" in name:
                self._rewrite(*name.split("/rewriteTo/b/lab/o/"))
                return
            kind = query.get("uploadType")
            if kind == "resumable":
                self._answer(200, b"", location=f"{bucket.url}/resumed/{quote(query['name'])}")
            elif kind == "multipart":
                boundary = b"--" + self.headers["content-type"].partition('boundary="')[2].rstrip('"').encode()
                told, content = (part.partition(b"\n\n")[2].removesuffix(b"\n") for part in body.split(boundary)[1:3])
                self._put(json.loads(told)["name"], content, query)
            else:
                self._resume(unquote(urlsplit(self.path).path.removeprefix("/resumed/")), body)

        def _resume(self, name: str, body: bytes) -> None:
            """A part of an object that is sent in several; the last one names the size of all."""
            place, _, total = self.headers.get("content-range", "").removeprefix("bytes ").partition("/")
            content = body if place.startswith("0-") else begun.pop(name, b"") + body
            if total == "*":
                begun[name] = content
                self._answer(308, b"", range=f"bytes=0-{len(content) - 1}")
            else:
                self._put(name, content, {})

        def _rewrite(self, source: str, target: str) -> None:
            bucket.put(target, bucket.objects[source][0], {})
            self._answer(200, {"kind": "storage#rewriteResponse", "done": True, "resource": bucket.described(target)})

        def _put(self, name: str, content: bytes, query: dict[str, str]) -> None:
            if bucket.forbidden is not None and name.endswith(bucket.forbidden):
                self._answer(403, {"error": {"code": 403, "message": "forbidden"}})
            elif bucket.put(name, content, query):
                self._answer(200, bucket.described(name))
            else:
                self._answer(412, {"error": {"code": 412, "message": "conditionNotMet"}})

        def do_DELETE(self) -> None:
            name, _ = self._asked()
            self._answer(204 if bucket.objects.pop(name, None) else 404, b"")

        def _asked(self) -> tuple[str, dict[str, str]]:
            bucket.authorisations.append(self.headers.get("authorization"))
            parts = urlsplit(self.path)
            query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
            return unquote(parts.path.partition("/b/lab/o")[2].removeprefix("/")), query

        def _answer(self, status: int, body: bytes | dict[str, Any], **headers: str) -> None:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            # the client asks in several ways at once, and hangs up on the slower ones
            with suppress(ConnectionError):
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        # the client sends a folder's files at once
        request_queue_size = 256

    server = Server(("127.0.0.1", 0), Handler)
    bucket.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield bucket
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """An empty bucket at ``gs://lab``, served on this machine to the real client."""
    with gcs() as served:
        monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "anon", "endpoint_url": served.url})
        yield served
    # what it lists is kept by address, which another server may get
    fsspec.get_filesystem_class("gs").clear_instance_cache()
