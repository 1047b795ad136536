"""Claim: whatever a peer sends to the processor's port, others are served, and what it cost is given back."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from benchmarks.harness.envoy_messages import ProcessingRequest, ProcessingResponse
from benchmarks.harness.parts import INFER, Running, running
from benchmarks.harness.raw_http2 import END_HEADERS, END_STREAM, PREFACE, Kind, frame, settings
from benchmarks.harness.raw_peers import connect
from tests.middleware.ext_proc.served import ANSWERS, configuration, eventually

from tocsin.configuration.listener import Limits
from tocsin.grpc_wire.deframer import framed
from tocsin.http2.header_literals import block

PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
HEADERS = block([(":method", "POST"), (":scheme", "http"), (":path", PROCESS), ("content-type", "application/grpc")])
LIMITS = {"controls": 200, "resets": 100, "streams": 50, "headers": 8_192, "handshake": "1s", "connections": 8}


@pytest.fixture(scope="module")
def processor(bundle: Path) -> Iterator[Running]:
    config = configuration(
        bundle, "127.0.0.1:1", "annotate", limits=Limits(**LIMITS), max_memory=16 << 20, max_message=1 << 20
    )
    with running(config) as relay:
        yield relay


def messages() -> list[Any]:
    def fields(*pairs: tuple[str, str]) -> dict[str, Any]:
        return {"headers": {"headers": [{"key": name, "raw_value": value.encode()} for name, value in pairs]}}

    return [
        ProcessingRequest(request_headers=fields((":path", INFER)), protocol_config={"response_body_mode": 1}),
        ProcessingRequest(response_headers=fields((":status", "200"), ("content-type", "application/grpc"))),
        ProcessingRequest(response_body={"body": framed(ANSWERS[b"far"])}),
        ProcessingRequest(response_trailers={"trailers": fields(("grpc-status", "0"))["headers"]}),
    ]


def serves(processor: Running) -> bool:
    """Whether an ordinary peer, of another make than Envoy, is served; and nothing is kept of others."""
    with grpc.insecure_channel(processor.target) as channel:
        call = channel.stream_stream(PROCESS, ProcessingRequest.SerializeToString, ProcessingResponse.FromString)
        replies = list(call(iter(messages()), timeout=60))
        health = channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=60)
    assert [reply.WhichOneof("response") for reply in replies] == [
        "request_headers", "response_headers", "response_body", "response_trailers",
    ]  # fmt: skip
    assert b'"action":"flag"' in replies[-1].SerializeToString()
    assert health == b"\x08\x01"
    assert eventually(lambda: sample(processor, "tocsin_ext_proc_connections") == 0)
    assert eventually(lambda: sample(processor, "tocsin_relay_kept_bytes") == 0), processor.metrics
    return True


def sample(processor: Running, line: str) -> float:
    lines = [text for text in processor.metrics.splitlines() if text.startswith(line + " ")]
    return float(lines[0].rpartition(" ")[2])


def limited(processor: Running, what: str) -> float:
    return sample(processor, f'tocsin_ext_proc_limited_total{{limit="{what}"}}')


def process_stream(stream: int, *parts: bytes) -> bytes:
    """A stream to Process, with these messages."""
    data = [frame(Kind.DATA, 0, stream, part) for part in parts]
    return frame(Kind.HEADERS, END_HEADERS, stream, HEADERS) + b"".join(data)


def test_a_peer_of_another_make_is_served(processor: Running) -> None:
    assert serves(processor)


@pytest.mark.parametrize("seed", range(6))
def test_random_bytes_end_the_connection(processor: Running, seed: int) -> None:
    peer = connect(processor.target, random.Random(seed).randbytes(3_000))
    assert peer.until(lambda: peer.closed, 60)
    assert serves(processor)


@pytest.mark.parametrize("seed", range(12))
def test_random_frames_behind_a_preface_do_no_harm(processor: Running, seed: int) -> None:
    chosen = random.Random(seed)
    peer = connect(processor.target)
    for _ in range(60):
        kind, flags = chosen.choice([*range(10), chosen.randrange(256)]), chosen.choice([0, 1, 4, 5, 8, 0xFF])
        content = chosen.choice([HEADERS, chosen.randbytes(chosen.choice([0, 4, 5, 6, 8, 9, 100]))])
        peer.send(frame(kind, flags, chosen.choice([0, 1, 2, 3, 5, 1 << 30]), content))
    peer.close()
    assert serves(processor)


@pytest.mark.parametrize("cut", ["bit", "drop", "truncate"])
def test_damaged_conversations_do_no_harm(processor: Running, cut: str) -> None:
    parts = [framed(message.SerializeToString()) for message in messages()]
    conversation = settings() + process_stream(1, *parts)
    chosen = random.Random(cut)
    for _ in range(40):
        damaged = bytearray(conversation)
        at = chosen.randrange(9, len(damaged))
        if cut == "bit":
            damaged[at] ^= 1 << chosen.randrange(8)
        elif cut == "drop":
            del damaged[at : at + chosen.randint(1, 30)]
        else:
            del damaged[at:]
        peer = connect(processor.target, PREFACE + bytes(damaged))
        peer.until(lambda peer=peer: peer.closed or peer.has_ended(1), 0.02)
        peer.close()
    assert serves(processor)


def test_http1_and_silence_are_ended(processor: Running) -> None:
    peer = connect(processor.target, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert peer.until(lambda: peer.closed, 60)
    before = limited(processor, "handshake")
    for first in (b"", PREFACE[:10]):
        host, _, port = processor.target.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=60) as silent:
            silent.sendall(first)
            with suppress(ConnectionError):
                while silent.recv(4_096):
                    pass
    assert limited(processor, "handshake") == before + 2
    assert serves(processor)


@pytest.mark.parametrize(
    ("what", "flood"),
    [
        ("controls", settings() * 500),
        ("controls", frame(Kind.PING, 0, 0, b"12345678") * 500),
        ("controls", process_stream(1) + frame(Kind.DATA, 0, 1) * 500),
        ("controls", frame(0x77, 0, 0, b"x") * 500),
        ("resets", b"".join(process_stream(n) + frame(Kind.RST_STREAM, 0, n, b"\0\0\0\x08") for n in range(1, 500, 2))),
        ("headers", frame(Kind.HEADERS, 0, 1, HEADERS) + frame(Kind.CONTINUATION, 0, 1, b"\0" * 9_000) * 9),
        ("headers", frame(Kind.HEADERS, END_HEADERS, 1, block([(f"x-{at}", "b" * 100) for at in range(120)]))),
    ],
    ids=["settings", "ping", "empty data", "unknown", "rapid reset", "continuations", "one header"],
)
def test_floods_are_ended_and_counted(processor: Running, what: str, flood: bytes) -> None:
    before = limited(processor, what)
    peer = connect(processor.target)
    peer.send(flood)
    assert peer.until(lambda: peer.closed or bool(peer.of(Kind.GOAWAY)), 60)
    assert peer.of(Kind.GOAWAY) or peer.closed
    assert limited(processor, what) == before + 1
    peer.close()
    assert serves(processor)


def test_open_exchanges_count_as_memory(bundle: Path) -> None:
    with running(configuration(bundle, "127.0.0.1:1", "annotate", max_memory=2 << 20)) as processor:
        peer = connect(processor.target)
        peer.send(*(process_stream(stream) for stream in range(1, 4_001, 2)))
        assert eventually(lambda: limited(processor, "memory") > 500), processor.metrics
        assert limited(processor, "streams") == 0 and 0 < sample(processor, "tocsin_relay_kept_bytes") < 2 << 20
        peer.close()
        assert serves(processor)


def test_more_streams_than_there_may_be_are_refused(processor: Running) -> None:
    peer = connect(processor.target)
    peer.send(b"".join(process_stream(number) for number in range(1, 161, 2)))
    assert peer.until(lambda: len(peer.of(Kind.RST_STREAM)) == 30)
    assert {frame_.payload for frame_ in peer.of(Kind.RST_STREAM)} == {b"\0\0\0\x07"}
    peer.close()
    assert serves(processor)


def test_more_connections_than_there_may_be_are_closed(processor: Running) -> None:
    peers = [connect(processor.target) for _ in range(LIMITS["connections"])]  # type: ignore[call-overload]
    extra = connect(processor.target, PREFACE + settings())
    assert extra.until(lambda: extra.closed, 60)
    for peer in peers:
        peer.close()
    assert eventually(lambda: sample(processor, "tocsin_ext_proc_connections") == 0)
    assert serves(processor)


def test_data_beyond_the_window_ends_the_connection(processor: Running) -> None:
    peer = connect(processor.target)
    announced = (9 << 20).to_bytes(4, "big")
    peer.send(process_stream(1, b"\0" + announced))
    for _ in range(9 << 6):
        if not peer.send(frame(Kind.DATA, 0, 1, bytes(16_384))):
            break
    assert peer.until(lambda: peer.closed or bool(peer.of(Kind.GOAWAY)) or peer.has_ended(1), 60)
    peer.close()
    assert serves(processor)


def test_a_message_that_is_too_large_ends_its_stream_alone(processor: Running) -> None:
    before = limited(processor, "message")
    with grpc.insecure_channel(processor.target) as channel:
        call = channel.stream_stream(PROCESS)(iter([bytes(9 << 20)]), timeout=60)
        with pytest.raises(grpc.RpcError):
            list(call)
        assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert limited(processor, "message") == before + 1
    assert serves(processor)


def test_other_methods_and_other_content_are_refused(processor: Running) -> None:
    with grpc.insecure_channel(processor.target) as channel:
        with pytest.raises(grpc.RpcError) as error:
            channel.unary_unary("/x.Y/Z")(b"", timeout=60)
        assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
    with grpc.insecure_channel(processor.target) as channel:
        call = channel.stream_stream(PROCESS)(iter([b"\xff\xff\xff"]), timeout=60)
        with pytest.raises(grpc.RpcError):
            list(call)
        assert call.code() is grpc.StatusCode.INVALID_ARGUMENT
    peer = connect(processor.target)
    fields = [(":method", "GET"), (":scheme", "http"), (":path", PROCESS), ("content-type", "text/html")]
    peer.send(frame(Kind.HEADERS, END_HEADERS | END_STREAM, 1, block(fields)))
    assert peer.until(lambda: peer.fields(1).get(":status") == "415", 60)
    peer.close()
    assert serves(processor)


def test_replies_that_nobody_reads_do_not_pile_up(processor: Running) -> None:
    """Duplex replies repeat what came: a peer that sends and never reads is held back, or cut off."""
    first = ProcessingRequest(
        request_headers={"headers": {"headers": []}}, protocol_config={"response_body_mode": 4}
    ).SerializeToString()
    chunk = framed(ProcessingRequest(response_body={"body": bytes(16_000)}).SerializeToString())
    peer = connect(processor.target, reads=False, receive_buffer=4_096)
    peer.socket.settimeout(3)
    streams = range(1, 60, 2)
    try:
        for stream in streams:
            peer.socket.sendall(process_stream(stream, framed(first)))
        for _ in range(64):
            for stream in streams:
                peer.socket.sendall(frame(Kind.DATA, 0, stream, chunk))
                assert sample(processor, "tocsin_relay_kept_bytes") < 32 << 20
    except OSError:
        pass  # cut off, or held back
    peer.close()
    assert serves(processor)


def test_pings_that_nobody_reads_are_cut_off(bundle: Path) -> None:
    config = configuration(bundle, "127.0.0.1:1", "annotate", limits=Limits(controls=10_000_000))
    with running(config) as processor:
        peer = connect(processor.target, reads=False, receive_buffer=4_096)
        peer.socket.settimeout(60)
        pings = frame(Kind.PING, 0, 0, b"12345678") * 2_000
        with pytest.raises(OSError):
            for _ in range(2_000):
                peer.socket.sendall(pings)
        assert limited(processor, "unread") == 1
        peer.close()
        assert serves(processor)


def test_a_port_that_is_taken_is_told(bundle: Path) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        with pytest.raises(Exception, match=f"ext_proc: cannot listen on 127.0.0.1:{port}"):
            with running(configuration(bundle, "127.0.0.1:1", "annotate", ext_proc=f"127.0.0.1:{port}")):
                pass
