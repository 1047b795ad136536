"""Claim: behind a read of many streams others get their turn; what is to be read no further is not read on by that."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from benchmarks.harness.by_hand import Pipe, unconnected
from benchmarks.harness.parts import inline_guard, quick_bundle, settings
from benchmarks.harness.raw_http2 import END_HEADERS, PREFACE, Kind, frame
from benchmarks.harness.raw_http2 import settings as settings_frame

from tocsin.http2.header_literals import block
from tocsin.relay.downstream import MANY_STREAMS
from tocsin.relay.endpoint import Endpoint
from tocsin.relay.server import Relay

HELLO = settings_frame() + frame(Kind.SETTINGS, 1, 0)
BEGINS = block([(":method", "POST"), (":scheme", "http"), (":path", "/x.Y/Z"), ("content-type", "application/grpc")])
LITTLE = frame(Kind.HEADERS, END_HEADERS, 1, BEGINS)
MUCH = b"".join(frame(Kind.HEADERS, END_HEADERS, 3 + 2 * number, BEGINS) for number in range(MANY_STREAMS))


class Socket(Pipe):
    """A transport that knows whether it is read."""

    is_read = True

    def pause_reading(self) -> None:
        self.is_read = False

    def resume_reading(self) -> None:
        self.is_read = True


async def connected(bundle: Path) -> tuple[Endpoint, Endpoint, Socket]:
    """The two ends of a relayed connection, and the caller's socket."""
    config = settings(1, bundle)
    relay = Relay(config, inline_guard(config))
    relay.context.start()
    connection = relay.connection(unconnected(relay))
    to_client = Socket()
    connection.upstream.connection_made(Socket())  # type: ignore[arg-type]
    connection.downstream.connection_made(to_client)  # type: ignore[arg-type]
    connection.downstream.data_received(PREFACE + HELLO)
    connection.upstream.data_received(HELLO)
    await asyncio.sleep(0)  # it is connected
    await asyncio.sleep(0)
    return connection.downstream, connection.upstream, to_client


@pytest.fixture
def quick(tmp_path: Path) -> Path:
    quick_bundle(tmp_path / "quick.tocsin")
    return tmp_path / "quick.tocsin"


async def test_behind_many_streams_others_have_their_turn(quick: Path) -> None:
    downstream, _, to_client = await connected(quick)
    downstream.data_received(LITTLE)
    assert to_client.is_read
    downstream.data_received(MUCH)
    assert not to_client.is_read
    await asyncio.sleep(0)
    assert to_client.is_read


async def test_what_its_peer_has_no_room_for_is_not_read_on(quick: Path) -> None:
    downstream, upstream, to_client = await connected(quick)
    downstream.data_received(MUCH)
    upstream.pause_writing()
    await asyncio.sleep(0)
    assert not to_client.is_read
    upstream.resume_writing()
    assert to_client.is_read


async def test_a_connection_that_ends_meanwhile_is_not_read_on(quick: Path) -> None:
    downstream, upstream, to_client = await connected(quick)
    downstream.data_received(MUCH)
    downstream.connection_lost(None)
    upstream.connection_lost(None)
    await asyncio.sleep(0)
    assert not to_client.is_read
