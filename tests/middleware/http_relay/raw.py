"""Sockets on both sides of a relay: an upstream that answers with bytes as it is told, and a caller that sends them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks.harness.chat import CHAT, completion
from benchmarks.harness.parts import Running, running

from tocsin.configuration.config import Config

PATIENCE = 20.0  # seconds
SAFE, FAR = completion([-0.3] * 6), completion([-6.0] * 6)
RESET = b"reset"  # in place of a piece of a response: end the connection at once
Respond = Callable[[bytes], Iterable[bytes]]


def response(body: bytes, *, status: str = "200 OK", more: bytes = b"content-type: application/json\r\n") -> bytes:
    return b"HTTP/1.1 %b\r\n%bcontent-length: %d\r\n\r\n%b" % (status.encode(), more, len(body), body)


def chunked(
    *contents: bytes, content_type: bytes = b"text/event-stream", trailers: bytes = b"", more: bytes = b""
) -> list[bytes]:
    """A response in chunks, a piece for each of them."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n%btransfer-encoding: chunked\r\n\r\n" % (content_type, more)
    return [head, *(b"%x\r\n%b\r\n" % (len(content), content) for content in contents), b"0\r\n" + trailers + b"\r\n"]


def request(body: bytes = b"{}", path: str = CHAT, *more: str, verb: str = "POST") -> bytes:
    lines = [f"{verb} {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *more, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


class Upstream:
    """Answers each request with pieces. `requests` are the bytes that came, `connections` how many there were."""

    def __init__(self, respond: Respond) -> None:
        self.respond = respond
        self.requests: list[bytes] = []
        self.connections = 0
        self.gone = threading.Event()  # a connection was ended by the relay
        self.go_on = threading.Event()  # what waits between pieces goes on
        self.go_on.set()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                peer, _ = self._listening.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        received = b""
        with peer, suppress(OSError):
            while True:
                while (end := _end_of(received)) < 0:
                    data = peer.recv(65_536)
                    if not data:
                        self.gone.set()
                        return
                    received += data
                content, received = received[:end], received[end:]
                self.requests.append(content)
                for piece in self.respond(content):
                    self.go_on.wait(PATIENCE)
                    if piece == RESET:
                        return
                    peer.sendall(piece)
        self.gone.set()

    def close(self) -> None:
        self.go_on.set()
        self._listening.close()


def _end_of(received: bytes) -> int:
    """Where a request ends, -1 where it has not."""
    end = received.find(b"\r\n\r\n") + 4
    if end < 4:
        return -1
    head = received[:end].lower()
    if b"\ntransfer-encoding:" in head:
        last = received.find(b"\r\n0\r\n", end - 2)
        at = received.find(b"\r\n\r\n", last + 3) + 4 if last >= 0 else 3
        return at if at >= 4 else -1
    length = 0
    for line in head.split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line[15:])
    return end + length if len(received) >= end + length else -1


@contextmanager
def upstream(respond: Respond) -> Iterator[Upstream]:
    server = Upstream(respond)
    try:
        yield server
    finally:
        server.close()


def settings(bundle: Path | None, target: str, **more: Any) -> Config:
    top = {key: more.pop(key) for key in list(more) if key in Config.model_fields}
    ports = {"listen": "127.0.0.1:0", "metrics": "127.0.0.1:0", "admin": None, "scoring_budget": "60s", "drain": "5s"}
    models = {"m": {"protocol": "openai", "bundle": bundle, **more}}
    return Config(**{**ports, "upstream": target, "models": models, **top})


@contextmanager
def relayed(bundle: Path | None, respond: Respond, **more: Any) -> Iterator[tuple[Running, Upstream]]:
    with upstream(respond) as behind, running(settings(bundle, behind.target, **more)) as relay:
        yield relay, behind


class Caller:
    """A caller's socket."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), PATIENCE)
        self.received = bytearray()

    def send(self, content: bytes) -> None:
        self.socket.sendall(content)

    def until(self, mark: bytes) -> bytes:
        """Everything up to some bytes, and these; what was received where the connection ends before."""
        searched = 0
        while (end := self.received.find(mark, max(0, searched - len(mark)))) < 0:
            searched = len(self.received)
            try:
                data = self.socket.recv(65_536)
            except ConnectionError:
                data = b""
            if not data:
                return self._take(len(self.received))
            self.received += data
        return self._take(end + len(mark))

    def count(self, size: int) -> bytes:
        while len(self.received) < size and (data := self.socket.recv(65_536)):
            self.received += data
        return self._take(size)

    def _take(self, size: int) -> bytes:
        content = bytes(self.received[:size])
        del self.received[:size]
        return content

    def answer(self) -> tuple[bytes, bytes]:
        """The head of a response of some length, and its body."""
        head = self.until(b"\r\n\r\n")
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                return head, self.count(int(line[15:]))
            if line == b"transfer-encoding: chunked":
                return head, self.until(b"0\r\n\r\n")
        return head, b""

    def rest(self) -> bytes:
        """Everything until the connection ends."""
        content = self.until(b"\x00no such bytes\x00")
        return content

    def close(self) -> None:
        self.socket.close()


@contextmanager
def calling(target: str) -> Iterator[Caller]:
    caller = Caller(target)
    try:
        yield caller
    finally:
        caller.close()
