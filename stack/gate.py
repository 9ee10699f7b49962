"""A TCP gate between a program and a service: open, cut, or swallowing every byte, as networks do."""

from __future__ import annotations

import selectors
import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Literal

State = Literal["open", "cut", "frozen"]


class Gate:
    """Listens on `port` and passes what it gets to `host:target`, and back.

    `cut` closes what is connected and refuses what comes (connection refused); `freeze` lets connect and passes
    nothing on in either direction until `open` (a firewall that drops packets, a machine that swaps).
    """

    def __init__(self, host: str, target: int) -> None:
        self._target = host, target
        self._state: State = "open"
        self._changed = threading.Condition()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._listener: socket.socket | None = None
        self.port = 0
        self._listen()

    def __enter__(self) -> Gate:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()

    def open(self) -> None:
        """Pass everything on."""
        self._set("open")
        if self._listener is None:
            self._listen()

    def freeze(self) -> None:
        """Pass nothing on."""
        self._set("frozen")

    def cut(self) -> None:
        """Close what is connected, refuse what comes."""
        self._set("cut")
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        for pair in list(self._pairs):
            self._drop(pair)

    def _set(self, state: State) -> None:
        with self._changed:
            self._state = state
            self._changed.notify_all()

    def _listen(self) -> None:
        listener = socket.create_server(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), name=f"gate-{self.port}", daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._serve, args=(client,), name=f"gate-{self.port}", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        self._until_passing()
        try:
            server = socket.create_connection(self._target)
        except OSError:
            client.close()
            return
        pair = client, server
        self._pairs.add(pair)
        with selectors.DefaultSelector() as ready, suppress(OSError, ValueError):
            ready.register(client, selectors.EVENT_READ, server)
            ready.register(server, selectors.EVENT_READ, client)
            while True:
                for key, _ in ready.select():
                    source = key.fileobj
                    assert isinstance(source, socket.socket)
                    data = source.recv(1 << 16)
                    self._until_passing()
                    if not data:
                        self._drop(pair)
                        return
                    key.data.sendall(data)
        self._drop(pair)

    def _until_passing(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._state != "frozen")

    def _drop(self, pair: tuple[socket.socket, socket.socket]) -> None:
        self._pairs.discard(pair)
        for end in pair:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
