"""Claims about what one peer may take of the relay: nobody's use of memory or work is another's loss."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmarks.harness.by_hand import Pipe, enforcing_by_hand
from benchmarks.harness.parts import INFER, inference, safe_traffic
from hyperframe.frame import (
    DataFrame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from tests.middleware.relay.test_windows import HELLO, answer, frames_of

from tocsin.grpc_wire.deframer import framed
from tocsin.http2.frames import FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, PREFACE, PROTOCOL_ERROR, frame
from tocsin.http2.header_literals import block
from tocsin.http2.receive_window import CONNECTION_WINDOW, STREAM_WINDOW
from tocsin.http2.send_window import SendWindow
from tocsin.memory import MemoryBudget
from tocsin.relay.connection import Connection

UNGUARDED = "/test.Model/Up"


def asking(stream: int, path: str = INFER, *flags: str) -> bytes:
    ask = block([(":method", "POST"), (":path", path), ("content-type", "application/grpc")])
    return bytes(HeadersFrame(stream, data=ask, flags=["END_HEADERS", *flags]).serialize())


def connected(bundle: Path, *calls: bytes) -> tuple[Any, Connection, Pipe, Pipe]:
    relay, connection, to_client, to_server = enforcing_by_hand(bundle)
    connection.downstream.data_received(PREFACE + HELLO + b"".join(calls))
    return relay, connection, to_client, to_server


def codes(written: bytearray) -> list[int]:
    return [f.error_code for f in frames_of(written) if isinstance(f, GoAwayFrame)]


# -- the budget


def test_the_connection_that_keeps_most_is_cut_off_for_those_who_keep_little() -> None:
    cut_off: list[str] = []
    budget = MemoryBudget(16 << 20)
    greedy, middling, ordinary = (budget.open(lambda name=name: cut_off.append(name)) for name in "gmo")
    greedy.charge(11 << 20)
    middling.charge(4 << 20)
    assert greedy.lacks_room and middling.lacks_room and not ordinary.lacks_room
    for _ in range(3):
        ordinary.charge(1 << 19)
        assert not ordinary.lacks_room
    assert cut_off == ["g"]
    assert budget.remaining == (16 << 20) - (4 << 20) - 3 * (1 << 19)
    greedy.release(11 << 20)  # what it still gives back has been given back already
    assert budget.remaining == (16 << 20) - (4 << 20) - 3 * (1 << 19)


def test_a_connection_alone_is_cut_off_only_where_it_grows_in_spite_of_everything() -> None:
    cut_off: list[str] = []
    budget = MemoryBudget(16 << 20)
    alone = budget.open(lambda: cut_off.append("alone"))
    alone.charge(17 << 20)
    assert alone.lacks_room and not cut_off
    alone.charge(8 << 20)
    assert cut_off == ["alone"] and budget.remaining == 16 << 20


# -- windows


@pytest.mark.parametrize("path", [INFER, UNGUARDED])
async def test_a_caller_that_ignores_its_windows_is_refused_them(bundle: Path, path: str) -> None:
    relay, connection, to_client, _ = connected(bundle, asking(1, path))
    piece = DataFrame(1, data=b"\0\x7f\xff\xff\xff" + b"z" * 16_000).serialize()
    for _ in range(STREAM_WINDOW // 16_005 + 1):
        connection.downstream.data_received(piece)
    assert codes(to_client.written) == [FLOW_CONTROL_ERROR]
    assert to_client.closed and relay.context.limited["memory"] == 0


async def test_a_caller_that_ignores_the_connections_window_is_refused_it(bundle: Path) -> None:
    calls = [asking(stream, UNGUARDED) for stream in range(1, 41, 2)]
    relay, connection, to_client, _ = connected(bundle, *calls)
    relay.context.memory.much, relay.context.memory.remaining = (
        0,
        relay.context.memory.limit // 4,
    )  # so that senders wait for slow receivers
    for stream in range(1, 41, 2):
        for _ in range(20):
            connection.downstream.data_received(DataFrame(stream, data=b"z" * 16_000).serialize())
    assert codes(to_client.written) == [FLOW_CONTROL_ERROR]


async def test_streams_that_nobody_reads_stop_no_other_of_the_connection(bundle: Path) -> None:
    streams = range(1, 15, 2)
    _, connection, to_client, to_server = connected(bundle, *(asking(s, UNGUARDED, "END_STREAM") for s in streams))
    connection.upstream.data_received(HELLO)
    credit = CONNECTION_WINDOW  # what the upstream may send
    for stream in streams:
        for _ in range(STREAM_WINDOW // 16_000):
            connection.upstream.data_received(DataFrame(stream, data=b"z" * 16_000).serialize())
            credit -= 16_000
            credit += sum(
                f.window_increment
                for f in frames_of(to_server.written[len(PREFACE) :])
                if isinstance(f, WindowUpdateFrame) and not f.stream_id
            )
            del to_server.written[len(PREFACE) :]
            assert credit > 0, "the upstream must stop, though no stream has used up its own window"
    assert not to_client.closed


async def test_padded_frames_pass_in_pieces_and_are_never_kept_whole(bundle: Path) -> None:
    relay, connection, to_client, to_server = connected(bundle, asking(1, UNGUARDED))
    padded = DataFrame(1, data=b"x" * 10_000, flags=["PADDED"], pad_length=200).serialize()
    connection.upstream.data_received(HELLO)
    for place in range(0, len(padded), 7):
        connection.downstream.data_received(padded[place : place + 7])
        assert relay.context.config.max_memory - relay.context.memory.remaining < 16
    sent = [f.data for f in frames_of(to_server.written[len(PREFACE) :]) if isinstance(f, DataFrame)]
    assert b"".join(sent) == b"x" * 10_000
    connection.downstream.data_received(bytes([255, 255, 255, 0, 8]) + b"\0\0\0\1")
    assert codes(to_client.written) == [FRAME_SIZE_ERROR]


async def test_unfinished_frames_count_as_memory(bundle: Path) -> None:
    relay, connection, _, _ = connected(bundle)
    complete = frame(0xFA, 0, 0, b"x" * 16_000)
    for at in range(0, 12_000, 100):
        connection.downstream.data_received(complete[at : at + 100])
    assert relay.context.config.max_memory - relay.context.memory.remaining == 12_000
    connection.downstream.data_received(complete[12_000:])
    assert relay.context.memory.remaining == relay.context.config.max_memory


# -- work


def work_of(action: Any) -> int:
    """The number of calls and returns of functions in an action."""
    count = 0

    def called(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += 1

    sys.setprofile(called)
    try:
        action()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("connection_waits", [False, True])
def test_credit_costs_the_same_however_many_streams_wait(connection_waits: bool) -> None:
    class Nobody:
        def put(self, frame: bytes) -> None:
            pass

    def credit(waiting: int) -> int:
        send_window = SendWindow(Nobody(), MemoryBudget(1 << 30).open(lambda: None))
        if not connection_waits:
            send_window.announced(0)
            send_window.acknowledged()
        for stream in range(1, 2 * waiting, 2):
            send_window.send(stream, b"x" * 60_000)
        assert send_window.waiting
        return work_of(lambda: [send_window.credit(0, b"\0\0\0\1") for _ in range(100)])

    assert credit(2_000) < 3 * credit(4)


async def test_settings_count_by_what_waits_for_them(bundle: Path) -> None:
    streams = range(1, 801, 2)
    relay, connection, to_client, _ = connected(bundle, *(asking(s, UNGUARDED, "END_STREAM") for s in streams))
    connection.upstream.data_received(HELLO)
    for stream in streams:
        connection.upstream.data_received(DataFrame(stream, data=b"z" * 2_000).serialize())
    change = SettingsFrame(0)
    for number in range(1_000):
        change.settings = {4: 65_535 + number % 2}
        connection.downstream.data_received(change.serialize())
        if to_client.closed:
            break
    assert relay.context.limited["controls"] == 1 and number < 900


async def test_priorities_and_frames_unknown_are_limited(bundle: Path) -> None:
    for flood in (PriorityFrame(1, depends_on=3, stream_weight=3).serialize(), frame(0xFA, 0, 0)):
        relay, connection, to_client, _ = connected(bundle)
        connection.downstream.data_received(flood * (relay.context.config.limits.controls + 1))
        assert relay.context.limited["controls"] == 1 and to_client.closed


# -- answers of the relay's own


async def test_a_caller_that_reads_no_refusals_is_cut_off(bundle: Path) -> None:
    relay, connection, to_client, _ = connected(bundle, asking(1, UNGUARDED))
    relay.most_streams = 1
    connection.upstream.data_received(HELLO)
    connection.downstream.pause_writing()
    for stream in range(3, 40_001, 2):
        connection.downstream.data_received(asking(stream, UNGUARDED, "END_STREAM"))
        if to_client.closed:
            break
    assert relay.context.limited["unread"] == 1
    assert len(to_client.written) < 2 << 20
    connection.downstream.connection_lost(None)
    assert relay.context.memory.remaining == relay.context.config.max_memory


# -- pings


async def test_pings_that_come_with_data_are_no_flood(bundle: Path) -> None:
    relay, connection, to_client, _ = connected(bundle, asking(1, UNGUARDED))
    connection.upstream.data_received(HELLO)
    ping = PingFrame(0, b"measured").serialize()
    for _ in range(relay.context.config.limits.controls + 10):
        connection.downstream.data_received(ping + DataFrame(1, data=b"x").serialize())
    assert not to_client.closed
    connection.downstream.data_received(ping * (relay.context.config.limits.controls + 10))
    assert relay.context.limited["controls"] == 1


async def test_where_data_may_wait_the_relay_answers_pings_itself(bundle: Path) -> None:
    _, connection, to_client, to_server = connected(bundle, asking(1, INFER, "END_STREAM"))
    del to_client.written[:], to_server.written[:]
    connection.upstream.data_received(HELLO)
    connection.downstream.data_received(PingFrame(0, b"downward").serialize())
    connection.upstream.data_received(PingFrame(0, b"upward__").serialize())
    for written, payload in ((to_client.written, b"downward"), (to_server.written, b"upward__")):
        pings = [f for f in frames_of(written) if isinstance(f, PingFrame)]
        assert [(set(f.flags), f.opaque_data) for f in pings] == [({"ACK"}, payload)]


# -- ends


async def test_a_reset_right_behind_a_message_reaches_the_caller_after_it(bundle: Path) -> None:
    content = framed(inference(safe_traffic(1), slice(0, 1)))
    _, connection, to_client, _ = connected(bundle, asking(1, INFER, "END_STREAM"))
    opening = block([(":status", "200"), ("content-type", "application/grpc")])
    connection.upstream.data_received(
        HELLO
        + HeadersFrame(1, data=opening, flags=["END_HEADERS"]).serialize()
        + DataFrame(1, data=content).serialize()
        + RstStreamFrame(1, error_code=2).serialize()
    )
    await asyncio.sleep(0.2)
    got = [f for f in frames_of(to_client.written) if f.stream_id == 1]
    assert [type(f) for f in got] == [HeadersFrame, DataFrame, RstStreamFrame]
    assert isinstance(got[2], RstStreamFrame) and got[2].error_code == 2 and not connection.streams


async def test_what_follows_the_reset_of_a_call_is_not_handed_on(bundle: Path) -> None:
    _, connection, to_client, _ = connected(bundle, asking(1, INFER))
    connection.upstream.data_received(HELLO + RstStreamFrame(1, error_code=0).serialize())
    connection.upstream.data_received(answer(1, b"nobody has judged this"))
    assert b"nobody has judged" not in to_client.written
    assert [type(f) for f in frames_of(to_client.written) if f.stream_id == 1] == [RstStreamFrame]


@pytest.mark.parametrize("increment", [0, (1 << 31) - 1])
async def test_a_window_that_is_wrong_ends_its_stream_and_no_other(bundle: Path, increment: int) -> None:
    _, connection, to_client, to_server = connected(bundle, asking(1, UNGUARDED), asking(3, UNGUARDED, "END_STREAM"))
    connection.downstream.data_received(frame(8, 0, 1, increment.to_bytes(4, "big")))
    connection.upstream.data_received(HELLO + answer(3, b"well"))
    for written in (to_client.written, to_server.written[len(PREFACE) :]):
        assert [f.stream_id for f in frames_of(written) if isinstance(f, RstStreamFrame)] == [1]
    assert b"well" in to_client.written and not to_client.closed


async def test_goaways_never_name_a_later_stream(bundle: Path) -> None:
    _, connection, to_client, _ = connected(bundle, asking(1), asking(3), asking(5))
    connection.upstream.data_received(HELLO + GoAwayFrame(0, last_stream_id=3).serialize())
    connection.drain()
    connection.upstream.data_received(GoAwayFrame(0, last_stream_id=5).serialize())
    connection.upstream.connection_lost(None)
    named = [f.last_stream_id for f in frames_of(to_client.written) if isinstance(f, GoAwayFrame)]
    assert len(named) > 2 and named == sorted(named, reverse=True) and named[0] == 3


@pytest.mark.parametrize("stream", [2, 7])
async def test_frames_of_streams_that_never_began_end_the_connection(bundle: Path, stream: int) -> None:
    _, connection, to_client, _ = connected(bundle, asking(1))
    connection.downstream.data_received(DataFrame(stream, data=b"x").serialize())
    assert codes(to_client.written) == [PROTOCOL_ERROR]


async def test_what_comes_behind_the_end_of_an_answer_is_not_handed_on(bundle: Path) -> None:
    _, connection, to_client, _ = connected(bundle, asking(1, INFER))
    content = framed(inference(safe_traffic(1), slice(0, 1)))
    opening = block([(":status", "200"), ("content-type", "application/grpc")])
    trailers = HeadersFrame(1, data=block([("grpc-status", "0")]), flags=["END_HEADERS", "END_STREAM"]).serialize()
    connection.upstream.data_received(
        HELLO
        + HeadersFrame(1, data=opening, flags=["END_HEADERS"]).serialize()
        + DataFrame(1, data=content).serialize()
        + trailers
        + DataFrame(1, data=framed(b"too late")).serialize()
        + trailers
    )
    await asyncio.sleep(0.2)
    got = [f for f in frames_of(to_client.written) if f.stream_id == 1]
    assert [type(f) for f in got] == [HeadersFrame, DataFrame, HeadersFrame, RstStreamFrame][: len(got)]
    assert b"too late" not in to_client.written and not to_client.closed


async def test_what_comes_behind_the_end_of_a_request_is_not_handed_on(bundle: Path) -> None:
    _, connection, _, to_server = connected(bundle, asking(1, UNGUARDED))
    connection.upstream.data_received(HELLO)
    connection.downstream.data_received(DataFrame(1, data=framed(b"in time"), flags=["END_STREAM"]).serialize())
    connection.downstream.data_received(DataFrame(1, data=framed(b"too late"), flags=["END_STREAM"]).serialize())
    assert b"in time" in to_server.written and b"too late" not in to_server.written


async def test_a_client_that_has_left_is_not_waited_for_until_it_opens_a_window(bundle: Path) -> None:
    relay, connection, to_client, _ = connected(bundle, asking(1, UNGUARDED, "END_STREAM"))
    assert connection.downstream.eof_received()
    connection.upstream.data_received(HELLO + answer(1, b"z" * 200_000))
    await asyncio.sleep(0.05)
    assert to_client.closed
    connection.downstream.connection_lost(None)
    assert relay.context.memory.remaining == relay.context.config.max_memory


async def test_a_connection_begins_with_settings(bundle: Path) -> None:
    _, connection, to_client, _ = enforcing_by_hand(bundle)
    connection.downstream.data_received(PREFACE + PingFrame(0, b"too_soon").serialize() + HELLO)
    assert codes(to_client.written) == [PROTOCOL_ERROR]
