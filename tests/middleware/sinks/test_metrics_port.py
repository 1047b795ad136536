"""Claims about the metrics port: every form of address, and peers that connect and say nothing, or read nothing."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from benchmarks.harness.by_hand import until
from benchmarks.harness.parts import free_port, running, settings

from tocsin import http_server
from tocsin.configuration.fields import Address
from tocsin.errors import StartError
from tocsin.http_server import HttpServer, Request, Response, text
from tocsin.sockets import BoundSocket


def ask(peer: socket.socket, path: str = "/metrics", method: str = "GET") -> tuple[int, bytes]:
    """The status and body that a peer gets."""
    peer.settimeout(60)
    peer.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    answer = http.client.HTTPResponse(peer, method=method)
    answer.begin()
    return answer.status, answer.read()


def listening() -> set[str]:
    """The TCP addresses on which this process listens, as the kernel writes them; others may open ports meanwhile."""
    inodes = set()
    for path in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # closed since, as the listing itself is
            inodes.add(str(path.stat().st_ino))
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    return {words[1] for words in lines if words[3] == "0A" and words[9] in inodes}


@pytest.mark.skipif(not socket.has_ipv6, reason="there is no IPv6 here")
def test_metrics_are_served_on_ipv6(bundle: Path) -> None:
    with running(settings(1, bundle, metrics="[::1]:0")) as relay:
        assert relay.sidecar.http is not None
        with socket.create_connection(("::1", relay.sidecar.http.address.port)) as peer:
            status, body = ask(peer)
        assert (status, relay.sidecar.http.url) == (200, f"http://[::1]:{relay.sidecar.http.address.port}")
        assert b"tocsin_alpha" in body and "tocsin_alpha" in relay.metrics


def test_metrics_on_a_unix_socket_open_no_port(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    with socket.create_server(("127.0.0.1", 0)):
        assert listening()  # what is looked for can be seen
    before = listening()
    with running(settings(1, bundle, listen=f"unix:{tmp_path}/r.sock", metrics=f"unix:{path}")) as relay:
        assert listening() <= before
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(path))
            status, body = ask(peer)
        assert status == 200 and b"tocsin_alpha" in body
        assert relay.sidecar.http is not None and relay.sidecar.http.url == f"unix:{path}"
    assert not path.exists()


def test_a_unix_socket_that_cannot_be_had_is_told(bundle: Path, tmp_path: Path) -> None:
    config = settings(1, bundle, metrics=f"unix:{tmp_path}/none/m.sock")
    with pytest.raises(StartError, match="metrics: cannot listen on unix:"), running(config):
        pass


# -- peers that do not do what they should


@contextmanager
def served(**answers: Any) -> Iterator[Address]:
    def answer(request: Request) -> Response:
        response: Response = answers[request.path.strip("/")]
        return response

    bound = BoundSocket(Address("127.0.0.1", 0))
    server = HttpServer(bound, answer)
    try:
        yield bound.address
    finally:
        server.close()


OK = text(HTTPStatus.OK, "here")


def test_silent_connections_take_no_thread_and_lock_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "REQUEST_TIMEOUT", 600.0)
    with served(ok=OK) as address, ExitStack() as stack:
        before = set(threading.enumerate())
        silent = [stack.enter_context(socket.create_connection(address[:2])) for _ in range(300)]
        for peer in silent[::2]:
            peer.sendall(b"GET /ok HTTP/1.1\r\nX: ")  # half a request is no request
        with socket.create_connection(address[:2]) as peer:
            assert ask(peer, "/ok") == (200, b"here\n")
        assert set(threading.enumerate()) <= before
        until(lambda: sum(not _closed(peer) for peer in silent) <= http_server.MAX_CONNECTIONS)
        assert _closed(silent[0]) and not _closed(silent[-1])  # the longest silent made room


def test_a_request_that_does_not_come_ends_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "REQUEST_TIMEOUT", 0.2)
    with served(ok=OK) as address, socket.create_connection(address[:2]) as peer:
        peer.settimeout(60)
        peer.sendall(b"GET /ok HT")
        assert peer.recv(1) == b""


def test_an_answer_that_is_not_read_ends_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "WRITE_TIMEOUT", 0.2)
    large = Response(HTTPStatus.OK, [], bytes(64 << 20))
    with served(ok=OK, large=large) as address, socket.create_connection(address[:2]) as peer:
        peer.sendall(b"GET /large HTTP/1.1\r\n\r\n")
        with socket.create_connection(address[:2]) as other:
            assert ask(other, "/ok") == (200, b"here\n")  # meanwhile
        peer.settimeout(60)
        with pytest.raises((ConnectionResetError, AssertionError)):
            read = 0
            until(lambda: _connections(address) == 1)  # the listening one alone
            while part := peer.recv(1 << 20):
                read += len(part)
            assert read >= len(large.body)  # type: ignore[arg-type]


def _connections(address: Address) -> int:
    """Sockets of 127.0.0.1 that have that local port and are not waiting to be forgotten."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(words[1] == f"0100007F:{address.port:04X}" and words[3] in ("01", "0A", "08") for words in lines)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET http://[ HTTP/1.1\r\n\r\n", 400),
        (b"GET /ok?x=1 HTTP/1.0\r\n\r\n", 200),
        (b"GET http://h/ok HTTP/1.1\r\nA: b\r\n\r\n", 200),
        (b"HEAD /ok HTTP/1.1\r\n\r\n", 200),
        (b"GET /failing HTTP/1.1\r\n\r\n", 0),
        (b"GET /ok HTTP/1.1\r\nX: " + b"y" * (http_server.MAX_REQUEST_HEAD + 1), 0),
    ],
)
def test_requests_of_every_form_are_answered_or_ended(head: bytes, status: int) -> None:
    with served(ok=OK) as address, socket.create_connection(address[:2]) as peer:
        peer.settimeout(60)
        peer.sendall(head)
        answer = b""
        try:
            while part := peer.recv(4096):
                answer += part
        except ConnectionResetError:
            answer = b""
        assert answer.startswith(b"HTTP/1.1 %d" % status) if status else answer == b""
        assert answer.endswith(b"here\n") == (status == 200 and not head.startswith(b"HEAD"))
        with socket.create_connection(address[:2]) as other:
            assert ask(other, "/ok") == (200, b"here\n")


def test_two_on_one_port_are_told(bundle: Path) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        with pytest.raises(StartError, match="metrics: cannot listen"):
            with running(settings(1, bundle, metrics=f"127.0.0.1:{port}")):
                pass


def _closed(peer: socket.socket) -> bool:
    peer.setblocking(False)
    try:
        return peer.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True
