"""Claims about flow control through the relay: nobody waits for ever, and who reads slowly holds the sender back."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import grpc
import pytest
from benchmarks.dataplane.hops import start_upstream
from benchmarks.harness import ranker
from benchmarks.harness.by_hand import enforcing_by_hand
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import (
    INFER,
    SIGNALS,
    Running,
    hold_scores,
    quick_bundle,
    running,
    safe_traffic,
    settings,
)
from hyperframe.frame import DataFrame, Frame, HeadersFrame, RstStreamFrame, SettingsFrame, WindowUpdateFrame

from tocsin.grpc_wire.deframer import framed
from tocsin.http2.frames import PREFACE
from tocsin.http2.header_literals import block
from tocsin.http2.receive_window import CONNECTION_WINDOW
from tocsin.http2.send_window import INITIAL_WINDOW
from tocsin.judgement.guard import Guard

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
            said = subprocess.run(load, capture_output=True, text=True, timeout=60).stdout
    finally:
        assert server.process is not None
        server.process.kill()
    assert "6 succeeded, 0 failed" in said, said


async def test_what_waits_for_a_slow_caller_counts_as_memory_until_it_is_gone(bundle: Path) -> None:
    """Ten answers of which each fills the windows alone."""
    relay, connection, to_client, _ = enforcing_by_hand(bundle)
    ask = block([(":method", "POST"), (":path", INFER), ("content-type", "application/grpc")])
    streams = range(1, 21, 2)
    connection.downstream.data_received(PREFACE + HELLO)
    for stream in streams:
        connection.downstream.data_received(
            HeadersFrame(stream, data=ask, flags=["END_HEADERS", "END_STREAM"]).serialize()
        )
    connection.upstream.data_received(HELLO + b"".join(answer(stream, b"z" * 70_000) for stream in streams))
    await asyncio.sleep(0.1)  # a few turns, in which they are judged
    sent = sum(len(f.data) for f in frames_of(to_client.written) if isinstance(f, DataFrame))
    assert sent == INITIAL_WINDOW
    waits = relay.context.config.max_memory - relay.context.memory.remaining
    for stream in (0, *streams):
        connection.downstream.data_received(WindowUpdateFrame(stream, window_increment=1 << 20).serialize())
    await asyncio.sleep(0.1)  # a few turns, in which the socket takes it piece by piece
    later = frames_of(to_client.written)
    assert sum(len(f.data) for f in later if isinstance(f, DataFrame)) == 10 * len(framed(b"z" * 70_000))
    trailers = sum(9 + f.body_len for f in later if isinstance(f, HeadersFrame) and "END_STREAM" in f.flags)
    assert waits == 10 * len(framed(b"z" * 70_000)) - sent + trailers
    assert relay.context.memory.remaining == relay.context.config.max_memory
    connection.downstream.connection_lost(None)
    assert relay.context.memory.remaining == relay.context.config.max_memory


async def test_what_waits_for_a_caller_who_leaves_is_given_back(bundle: Path) -> None:
    relay, connection, _, _ = enforcing_by_hand(bundle)
    ask = block([(":method", "POST"), (":path", INFER), ("content-type", "application/grpc")])
    connection.downstream.data_received(PREFACE + HELLO)
    connection.downstream.data_received(HeadersFrame(1, data=ask, flags=["END_HEADERS", "END_STREAM"]).serialize())
    connection.upstream.data_received(HELLO + answer(1, b"z" * 700_000))
    await asyncio.sleep(0.1)
    assert relay.context.memory.remaining < relay.context.config.max_memory - 600_000
    connection.downstream.connection_lost(None)
    assert relay.context.memory.remaining == relay.context.config.max_memory


async def test_what_follows_of_a_request_that_is_answered_already_goes_nowhere(bundle: Path) -> None:
    _, connection, to_client, to_server = enforcing_by_hand(bundle)
    ask = block([(":method", "POST"), (":path", "/test.Model/Up"), ("content-type", "application/grpc")])
    piece = DataFrame(1, data=b"x" * 16_000).serialize()
    connection.downstream.data_received(PREFACE + HELLO + HeadersFrame(1, data=ask, flags=["END_HEADERS"]).serialize())
    connection.downstream.data_received(piece)
    connection.upstream.data_received(HELLO + answer(1, b"ok"))
    written_before = len(to_server.written)
    for _ in range(100):
        connection.downstream.data_received(piece)
    frames_after = frames_of(to_server.written[written_before:])
    assert [(type(frame), frame.stream_id) for frame in frames_after] == [(RstStreamFrame, 1)]
    credited = [f.window_increment for f in frames_of(to_client.written) if isinstance(f, WindowUpdateFrame)]
    begun_with = CONNECTION_WINDOW - INITIAL_WINDOW
    assert sum(credited) - begun_with > 101 * 16_000 - CONNECTION_WINDOW // 4  # but for what is not worth a frame yet


HELLO = SettingsFrame(0).serialize() + SettingsFrame(0, flags=["ACK"]).serialize()


def answer(stream: int, content: bytes) -> bytes:
    head = block([(":status", "200"), ("content-type", "application/grpc")])
    tail, message = block([("grpc-status", "0")]), framed(content)
    frames: list[Frame] = [
        HeadersFrame(stream, data=head, flags=["END_HEADERS"]),
        *(DataFrame(stream, data=message[at : at + 16_000]) for at in range(0, len(message), 16_000)),
        HeadersFrame(stream, data=tail, flags=["END_HEADERS", "END_STREAM"]),
    ]
    return b"".join(frame.serialize() for frame in frames)


def frames_of(written: bytes | bytearray) -> list[Frame]:
    frames, remaining = [], memoryview(bytes(written))
    while remaining:
        frame, length = Frame.parse_frame_header(remaining[:9])
        frame.parse_body(remaining[9 : 9 + length])
        frames.append(frame)
        remaining = remaining[9 + length :]
    return frames


def test_the_server_of_a_stream_waits_while_its_messages_are_judged(bundle: Path, tmp_path: Path) -> None:
    big = ranker.Response.FromString(ranker.answer(safe_traffic(1), 0))
    big.id = "x" * (1 << 20)
    with ranker.ranker({"big": big.SerializeToString()}) as (server, address):
        model = {"bundle": bundle, "protocol": "ranker", "signals": ranker.SIGNALS}
        protocols = ranker.protocol(tmp_path)
        guarded = settings(address, None, mode="enforce", fail="closed", protocols=protocols, models={"digits": model})
        guard = Guard.open(guarded)
        goes_on = hold_scores(guard)
        with running(guarded, guard) as relay, grpc.insecure_channel(relay.target, options=UNLIMITED) as channel:
            watch = channel.unary_stream(
                ranker.PATHS["Watch"], ranker.Request.SerializeToString, ranker.Response.FromString
            )
            call = watch(ranker.Request(query=" ".join(["big"] * 48)), timeout=60)
            time.sleep(1.5)
            assert 1 <= len(server.queries) < 8  # what fits into windows and buffers on the way
            goes_on.set()
            assert sum(1 for _ in call) == 48
            assert relay.metric("tocsin_unscored_total") == 0
