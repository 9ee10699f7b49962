"""An HTTP service that misbehaves on demand: a proxy before an object store, a catalog or a webhook's receiver."""

from __future__ import annotations

import http.client
import multiprocessing
import random
import signal
import socket
import threading
import time
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from typing import Any, Literal
from urllib.parse import urlsplit

Fault = Literal["away", "slow", "throttled", "answers lost", "objects hidden"]
"""`away`: connections are closed at once. `answers lost`: they are closed when the request has been carried out.
`throttled`: 503 with `Retry-After`. `objects hidden`: what was just written isn't found (404)."""

SLOW_SECONDS = 2.0
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "expect", "proxy-connection"}
SLOW_DOWN = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)
NO_SUCH_KEY = b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code><Message>The key does not exist.</Message></Error>"


class Unruly:
    """Passes requests to `service` (a URL without a path) and its answers back, until it is told to misbehave.

    Requests are signed for the host that they were sent to: its name is passed on. It runs in a process of its own, as
    libraries that read a store may hold Python's lock meanwhile.
    """

    def __init__(self, service: str) -> None:
        target = urlsplit(service)
        assert target.hostname is not None, service
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        address = target.hostname, target.port or 80
        self._process = context.Process(target=_serve, args=(address, theirs), name=f"unruly {service}", daemon=True)
        self._process.start()
        theirs.close()
        self.port: int = self._pipe.recv()
        self.url = f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        """Serve no more."""
        self._pipe.close()
        self._process.join(10)

    def misbehave(self, fault: Fault, share: float = 1.0) -> None:
        """From now on, in so many of all requests; one fault at a time."""
        self._tell(fault, share)

    def behave(self) -> None:
        """Be a good service."""
        self._tell(None, 0.0)

    def hits(self, fault: Fault) -> int:
        """How many requests a fault has met."""
        self._pipe.send(fault)
        met: int = self._pipe.recv()
        return met

    def _tell(self, fault: Fault | None, share: float) -> None:
        self._pipe.send((fault, share))
        self._pipe.recv()


def _serve(target: tuple[str, int], pipe: Connection) -> None:
    """The process: serves until the other end of the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    server = _Server(("127.0.0.1", 0), _Handler)
    server.target = target
    threading.Thread(target=server.serve_forever, daemon=True).start()
    pipe.send(server.server_address[1])
    with suppress(EOFError):
        while True:
            match pipe.recv():
                case str(fault):
                    pipe.send(server.hits[fault])
                case (fault, share):
                    server.misbehave(fault, share)
                    pipe.send(None)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    target: tuple[str, int]

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.hits: Counter[str] = Counter()
        self._fault: Fault | None = None
        self._share = 1.0
        self._rng = random.Random(0)
        self._written: set[str] = set()

    def misbehave(self, fault: Fault | None, share: float) -> None:
        self._written.clear()
        self._fault, self._share = fault, share

    def fault_for(self, method: str, path: str) -> Fault | None:
        """What is to be done to a request."""
        fault = self._fault
        if fault is None or self._rng.random() >= self._share:
            return None
        if fault == "objects hidden":
            name = path.partition("?")[0]
            if method == "PUT":
                self._written.add(name)
            if method not in ("GET", "HEAD") or name not in self._written:
                return None
        self.hits[fault] += 1
        return fault

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away (a killed worker) is no news."""


class _Handler(BaseHTTPRequestHandler):
    """One client's connection, and the one to the service behind it."""

    protocol_version = "HTTP/1.1"
    server: _Server
    _upstream: http.client.HTTPConnection | None = None

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""

    def _pass(self) -> None:
        body = self._body()
        fault = self.server.fault_for(self.command, self.path)
        match fault:
            case "away":
                self._hang_up()
                return
            case "throttled":
                self._answer(503, "Slow Down", [("Retry-After", "1"), ("Content-Type", "application/xml")], SLOW_DOWN)
                return
            case "objects hidden":
                self._answer(404, "Not Found", [("Content-Type", "application/xml")], NO_SUCH_KEY)
                return
            case "slow":
                time.sleep(SLOW_SECONDS)
        try:
            answer, content = self._carried_out(body)
        except (OSError, http.client.HTTPException):  # the service itself is away
            self._hang_up()
            return
        if fault == "answers lost":
            self._hang_up()
            return
        self._answer(answer.status, answer.reason, answer.getheaders(), content)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_PATCH = _pass  # noqa: N815 - http.server asks for these names

    def _carried_out(self, body: bytes) -> tuple[http.client.HTTPResponse, bytes]:
        if self._upstream is None:
            self._upstream = http.client.HTTPConnection(*self.server.target)
        upstream = self._upstream
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in HOP_BY_HOP | {"content-length"}:
                upstream.putheader(name, value)
        if body or self.command in ("PUT", "POST", "PATCH"):
            upstream.putheader("Content-Length", str(len(body)))
        upstream.endheaders(body or None)
        answer = upstream.getresponse()
        content = answer.read()
        if answer.will_close:
            upstream.close()
        return answer, content

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def _answer(self, status: int, reason: str, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response_only(status, reason)
        head = self.command == "HEAD"
        for name, value in headers:
            if name.lower() not in HOP_BY_HOP and (head or name.lower() != "content-length"):
                self.send_header(name, value)
        if not head and status != http.client.NO_CONTENT:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if not head:
            self.wfile.write(content)

    def _hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def finish(self) -> None:
        """The client has gone."""
        if self._upstream is not None:
            self._upstream.close()
        super().finish()
