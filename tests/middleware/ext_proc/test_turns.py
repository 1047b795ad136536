"""Claim: however much one read brings, a turn of the loop handles a part of it; nothing of the rest is lost, and what
it cost is given back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from benchmarks.harness.chat import USUAL, stream
from benchmarks.harness.envoy_messages import ProcessingRequest
from benchmarks.harness.parts import INFER, STREAM_INFER, inline_guard
from benchmarks.harness.raw_http2 import (
    END_HEADERS,
    END_STREAM,
    PREFACE,
    Kind,
    Setting,
    frame,
    reset,
    settings,
    window_update,
)
from tests.middleware.ext_proc.served import configuration
from tests.middleware.http_relay.conftest import each

from tocsin.configuration.config import Config
from tocsin.ext_proc.server import ExtProcServer
from tocsin.grpc_wire.deframer import framed
from tocsin.http2.header_literals import block
from tocsin.memory import MemoryBudget
from tocsin.relay.descriptors import Descriptors

PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
HEALTH = "/grpc.health.v1.Health/Check"
CHAT = "/v1/chat/completions"
MANY = 1_000
MOST = MANY // 4  # of them in one turn: several times what the quickest build comes to
DUPLEX = 4

__all__ = ["each"]


def begins(stream: int, path: str = PROCESS, flags: int = 0) -> bytes:
    fields = [(":method", "POST"), (":path", path), ("content-type", "application/grpc")]
    return frame(Kind.HEADERS, END_HEADERS | flags, stream, block(fields))


def said(**parts: object) -> bytes:
    return framed(ProcessingRequest(**parts).SerializeToString())


def fields(*pairs: tuple[str, str]) -> dict[str, object]:
    return {"headers": {"headers": [{"key": name, "raw_value": value.encode()} for name, value in pairs]}}


def opening(path: str, kind: str = "application/grpc") -> bytes:
    """What Envoy says of a request, and of a response that begins."""
    request = fields((":method", "POST"), (":path", path), ("content-type", kind))
    response = fields((":status", "200"), ("content-type", kind))
    return said(request_headers=request, protocol_config={"response_body_mode": DUPLEX}) + said(
        response_headers=response
    )


def data(stream: int, content: bytes, flags: int = 0) -> bytes:
    pieces = [content[at : at + 16_384] for at in range(0, len(content), 16_384)]
    last = len(pieces) - 1
    return b"".join(frame(Kind.DATA, flags * (at == last), stream, piece) for at, piece in enumerate(pieces))


@asynccontextmanager
async def processing(config: Config) -> AsyncIterator[ExtProcServer]:
    server = ExtProcServer(config, inline_guard(config), MemoryBudget(config.max_memory), Descriptors())
    await server.start()
    try:
        yield server
    finally:
        await server.drain()


async def connected(server: ExtProcServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A peer with wide windows, whose SETTINGS are acknowledged."""
    reader, writer = await asyncio.open_connection(server.address.host, server.address.port)
    writer.write(PREFACE + settings((Setting.INITIAL_WINDOW_SIZE, 1 << 24)) + window_update(0, 1 << 24))
    await received(reader, frame(Kind.SETTINGS, 1, 0))
    writer.write(frame(Kind.SETTINGS, 1, 0))
    return reader, writer


async def received(reader: asyncio.StreamReader, wanted: bytes) -> bytes:
    """Read until this has come."""
    content = b""
    while wanted not in content:
        more = await asyncio.wait_for(reader.read(1 << 16), 60)
        assert more, "the connection has ended"
        content += more
    return content


async def turns(count: Callable[[], float], until: Callable[[], bool]) -> list[float]:
    """By how much a count grows in each turn of the loop, until a claim comes true."""
    grown, before = list[float](), count()
    for _ in range(1_000_000):
        if until():
            return grown
        await asyncio.sleep(0)
        grown.append(count() - before)
        before = count()
    raise AssertionError("it never comes true")


@pytest.fixture
def served(bundle: Path) -> Config:
    return configuration(bundle, "127.0.0.1:1", "annotate", max_memory=16 << 20)


def resets(first: int = 1) -> bytes:
    opened = opening(INFER)
    return b"".join(
        begins(stream) + data(stream, opened) + reset(stream) for stream in range(first, first + 2 * MANY, 2)
    )


async def test_streams_that_come_at_once_are_opened_in_many_turns(served: Config) -> None:
    async with processing(served) as server:
        _, writer = await connected(server)
        other, asking = await connected(server)
        writer.write(resets() + begins(2 * MANY + 1, HEALTH, END_STREAM))
        asking.write(begins(1, HEALTH, END_STREAM))
        exchanges = server.context.exchanges
        grown = await turns(lambda: sum(exchanges), lambda: sum(exchanges) == MANY)
        assert max(grown) <= MOST
        await received(other, b"grpc-status")
        assert exchanges == [0, MANY] and not server.context.not_understood and not server.context.limited
        await turns(lambda: 0, lambda: all(not connection.open_streams for connection in server.connections))
        assert server.memory.remaining == server.memory.limit


async def test_another_is_answered_between_the_turns_of_one_that_sends_much(served: Config) -> None:
    async with processing(served) as server:
        _, writer = await connected(server)
        other, asking = await connected(server)
        exchanges = server.context.exchanges
        writer.write(resets())
        await turns(lambda: 0, lambda: sum(exchanges) > 0)
        asking.write(begins(1, HEALTH, END_STREAM))
        await received(other, b"grpc-status")
        assert sum(exchanges) < MANY


async def test_what_waits_for_its_turn_counts_as_memory_and_is_given_back_with_its_connection(served: Config) -> None:
    async with processing(served) as server:
        _, writer = await connected(server)
        exchanges, memory = server.context.exchanges, server.memory
        writer.write(resets())
        await turns(lambda: 0, lambda: sum(exchanges) > 0)
        assert memory.limit - memory.remaining > len(resets()) // 4
        for connection in list(server.connections):
            connection.close()
        await turns(lambda: 0, lambda: not server.connections)
        assert sum(exchanges) < MANY and memory.remaining == memory.limit


async def test_what_waits_when_the_peer_has_ended_is_handled(served: Config) -> None:
    async with processing(served) as server:
        _, writer = await connected(server)
        writer.write(resets())
        writer.write_eof()
        await turns(lambda: 0, lambda: not server.connections)
        assert server.context.exchanges == [0, MANY] and server.memory.remaining == server.memory.limit


async def test_what_waits_while_the_port_drains_is_served(served: Config) -> None:
    async with processing(served) as server:
        reader, writer = await connected(server)
        exchanges = server.context.exchanges
        writer.write(resets() + begins(2 * MANY + 1, HEALTH, END_STREAM))
        await turns(lambda: 0, lambda: sum(exchanges) > 0)
        draining = asyncio.create_task(server.drain())
        await received(reader, b"grpc-status")
        await draining
        assert sum(exchanges) == MANY


async def test_what_breaks_the_protocol_behind_much_else_ends_the_connection(served: Config) -> None:
    async with processing(served) as server:
        reader, writer = await connected(server)
        writer.write(resets() + frame(Kind.PUSH_PROMISE, 4, 1, bytes(4)) + resets(2 * MANY + 1))
        with suppress(ConnectionError):
            while await asyncio.wait_for(reader.read(1 << 16), 60):
                pass
        assert server.context.exchanges == [0, MANY] and server.context.not_understood["frame"] == 1
        await turns(lambda: 0, lambda: not server.connections)
        assert server.memory.remaining == server.memory.limit


@pytest.mark.parametrize("flags", [0, END_STREAM])
@pytest.mark.parametrize("mode", ["annotate", "enforce"])
async def test_messages_of_one_frame_are_taken_in_many_turns(mode: str, flags: int, bundle: Path) -> None:
    config = configuration(bundle, "127.0.0.1:1", mode, max_memory=16 << 20)
    async with processing(config) as server:
        reader, writer = await connected(server)
        body = framed(b"") * MANY
        writer.write(begins(1) + data(1, opening(STREAM_INFER) + said(response_body={"body": body}), flags))
        await turns(lambda: 0, lambda: server.batcher.waiting > 0)
        assert server.batcher.waiting <= MOST
        if flags:
            await received(reader, b"grpc-status")
        writer.write(reset(1))
        await turns(lambda: 0, lambda: all(not connection.open_streams for connection in server.connections))
        assert server.memory.remaining == server.memory.limit


@pytest.mark.parametrize("mode", ["annotate", "enforce"])
async def test_events_of_one_message_are_read_in_many_turns(mode: str, each: Path) -> None:
    model = {"protocol": "openai", "bundle": str(each), "session": "stream", "judge": 1}
    config = Config(
        upstream="127.0.0.1:1", mode=mode, ext_proc="127.0.0.1:0", metrics=None, admin=None, scoring_budget="60s",
        drain="5s", models={"m": model},
    )  # fmt: skip
    events = b"".join(stream([USUAL] * MANY)[:-1])
    async with processing(config) as server:
        reader, writer = await connected(server)
        body = said(response_body={"body": events, "end_of_stream": True})
        writer.write(begins(1) + data(1, opening(CHAT, "text/event-stream") + body))
        await turns(lambda: 0, lambda: server.batcher.waiting > 0)
        assert server.batcher.waiting <= MOST
        replies = b""
        while replies.count(b"data: ") < MANY:
            replies += await asyncio.wait_for(reader.read(1 << 16), 60)
        writer.write(reset(1))
        await turns(lambda: 0, lambda: all(not connection.open_streams for connection in server.connections))
        assert server.memory.remaining == server.memory.limit
