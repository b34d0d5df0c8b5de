"""A mail server and a SendGrid on this machine, which keep what arrives."""

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Mailbox:
    """What arrived at an address, and how many sendings are refused first."""

    port: int
    refuse: int = 0
    mails: list[EmailMessage] = field(default_factory=list)
    posts: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)

    def refuses(self) -> bool:
        self.refuse -= 1
        return self.refuse >= 0

    @property
    def smtp(self) -> str:
        """The connection, as Airflow reads it from the environment."""
        extra = {"disable_ssl": True, "disable_tls": True, "from_email": "gca@lab.example", "retry_limit": 0}
        return json.dumps({"conn_type": "smtp", "host": "127.0.0.1", "port": self.port, "extra": extra})

    @property
    def sendgrid(self) -> str:
        """The connection, with a key."""
        host, extra = f"http://127.0.0.1:{self.port}", {"from_email": "gca@lab.example"}
        return json.dumps({"conn_type": "http", "host": host, "password": "SG.very-secret", "extra": extra})


@contextmanager
def smtp_server() -> Iterator[Mailbox]:
    """A mail server."""

    class Handler(socketserver.StreamRequestHandler):
        def say(self, text: str) -> None:
            self.wfile.write(f"{text}\r\n".encode())

        def handle(self) -> None:
            self.say("220 loopback")
            while line := self.rfile.readline():
                word = line[:4].upper()
                if word == b"QUIT":
                    return self.say("221 bye")
                if word != b"DATA":
                    self.say("250 fine")
                    continue
                self.say("354 go on")
                body = b"".join(iter(self.rfile.readline, b".\r\n"))
                if box.refuses():
                    self.say("451 later")
                    continue
                box.mails.append(message_from_bytes(body, policy=policy.default))
                self.say("250 kept")
            return None

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        box = Mailbox(server.server_address[1])
        with _serving(server):
            yield box


@contextmanager
def sendgrid_server() -> Iterator[Mailbox]:
    """SendGrid's API, as far as it is used."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.path != "/v3/mail/send" or box.refuses():
                self.send_response(503)
            else:
                box.posts.append(json.loads(body))
                box.keys.append(self.headers["authorization"])
                self.send_response(202)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        box = Mailbox(server.server_address[1])
        with _serving(server):
            yield box


@contextmanager
def _serving(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
