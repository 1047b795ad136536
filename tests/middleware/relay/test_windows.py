"""Claims about flow control through the relay: nobody waits for ever, and who reads slowly holds the sender back."""

from __future__ import annotations

import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import grpc
import pytest
from benchmarks.dataplane.hops import start_upstream
from hyperframe.frame import DataFrame, HeadersFrame, RstStreamFrame
from tests.by_hand import fields, upstream
from tests.model_server import model_server
from tests.parts import INFER, SIGNALS, Running, quick_bundle, running, settings

from tocsin.relay.messages import framed

MODES = ["observe", "annotate", "enforce", "annotate, asking"]
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def relayed(server: int | str, bundle: Path, mode: str) -> AbstractContextManager[Running]:
    mode, _, asks = mode.partition(", ")
    model = {"bundle": bundle, "signals": SIGNALS, "ask": bool(asks)}
    return running(settings(server, bundle, mode=mode, models={"digits": model}))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "quick.tocsin"
    quick_bundle(path)
    return path


@pytest.mark.parametrize("mode", MODES)
def test_a_server_that_reads_slowly_holds_its_callers_back_and_loses_nothing(bundle: Path, mode: str) -> None:
    sent: list[bytes] = []

    def requests() -> Iterator[bytes]:
        for number in range(800):
            sent.append(b"%05d" % number * 10_000)
            yield sent[-1]

    with model_server() as (_, server), relayed(server, bundle, mode) as relay:
        with grpc.insecure_channel(relay.target, options=UNLIMITED) as channel:
            call = channel.stream_unary("/test.Model/Up").future(requests(), metadata=(("sleep", "2"),), timeout=60)
            time.sleep(1.5)
            assert sum(map(len, sent)) < 12 << 20  # of 40 MB: what fits into windows and buffers on the way
            assert call.result() == b"|".join(sent)
            assert len(sent) == 800


@pytest.mark.parametrize("sizes", [(10, 3_000_000), (3_000_000, 10), (3_000_000, 3_000_000)])
@pytest.mark.parametrize("method", [INFER, "/test.Model/Unary"])
@pytest.mark.parametrize("mode", MODES)
def test_large_messages_pass_between_peers_that_say_nothing_else(
    bundle: Path, tmp_path: Path, mode: str, method: str, sizes: tuple[int, int]
) -> None:
    """nghttpd takes 64 KB of requests at a time, and h2load's windows are wide: neither is woken by the other."""
    request = tmp_path / "request.bin"
    request.write_bytes(framed(b"z" * sizes[0]))
    headers = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    server = start_upstream(tmp_path, {method: framed(b"z" * sizes[1])})
    try:
        with relayed(server.port, bundle, mode) as relay:
            url = f"http://{relay.target}{method}"
            load = [
                "h2load",
                "-n",
                "6",
                "-c",
                "1",
                "-m",
                "2",
                "-w",
                "26",
                "-W",
                "28",
                "-d",
                str(request),
                *headers,
                url,
            ]
            said = subprocess.run(load, capture_output=True, text=True, timeout=20).stdout
    finally:
        assert server.process is not None
        server.process.kill()
    assert "6 succeeded, 0 failed" in said, said


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_an_upstream_that_answers_before_it_was_asked_all_leaves_the_connection_usable(
    bundle: Path, mode: str, reset: bool
) -> None:
    """Other calls of the connection go on, however much of the request follows."""
    answer = b"\0" + struct.pack(">L", 2) + b"ok"

    def behave(peer: socket.socket, stream: int) -> None:
        early = head(stream) + DataFrame(stream, data=answer).serialize() + trailers(stream)
        peer.sendall(early + (RstStreamFrame(stream, error_code=0).serialize() if reset else b""))

    with upstream(behave) as port, relayed(port, bundle, mode) as relay:
        with grpc.insecure_channel(relay.target, options=UNLIMITED) as channel:
            for _ in range(3):
                up = channel.stream_unary("/test.Model/Up")
                assert up(iter([b"x" * 50_000] * 40), timeout=20) == b"ok"


def head(stream: int) -> bytes:
    block = fields((":status", "200"), ("content-type", "application/grpc"))
    return bytes(HeadersFrame(stream, data=block, flags=["END_HEADERS"]).serialize())


def trailers(stream: int) -> bytes:
    block = fields(("grpc-status", "0"))
    return bytes(HeadersFrame(stream, data=block, flags=["END_HEADERS", "END_STREAM"]).serialize())
