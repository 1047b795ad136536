"""Claims about the relay's own flow control: windows are never exceeded, nothing is lost, reordered or kept."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin.http2.frames import (
    DATA,
    DEFAULT_MAX_FRAME_SIZE,
    END_STREAM,
    HEADER,
    HEADERS,
    FrameError,
    StreamError,
    frame,
)
from tocsin.http2.receive_window import CONNECTION_WINDOW, STREAM_WINDOW, ReceiveWindow
from tocsin.http2.send_window import INITIAL_WINDOW, SendWindow
from tocsin.memory import MemoryAccount, MemoryBudget

STREAMS = (1, 3, 5)


class Receiver:
    """A receiver that checks each frame against the windows it has granted."""

    def __init__(self) -> None:
        self.content: dict[int, bytes] = {}
        self.ended: list[int] = []
        self.room, self.initial = INITIAL_WINDOW, INITIAL_WINDOW
        self.rooms: dict[int, int] = {}

    def put(self, frames: bytes) -> None:
        while frames:
            high, low, *_ = HEADER.unpack_from(frames)
            end = HEADER.size + (high << 8 | low)
            assert len(frames) >= end, "a frame is not whole"
            self._take(frames[:end])
            frames = frames[end:]

    def _take(self, frame: bytes) -> None:
        _, _, kind, flags, stream = HEADER.unpack_from(frame)
        payload = frame[HEADER.size :]
        assert stream not in self.ended, "something comes after the end"
        if kind == DATA:
            self.room -= len(payload)
            self.rooms[stream] = self.rooms.get(stream, self.initial) - len(payload)
            assert len(payload) <= DEFAULT_MAX_FRAME_SIZE
            assert not payload or (self.room >= 0 and self.rooms[stream] >= 0), "a window is exceeded"
            self.content[stream] = self.content.get(stream, b"") + payload
        if flags & END_STREAM:
            self.ended.append(stream)


def unreachable() -> None:
    raise AssertionError("nobody is cut off")


def account() -> MemoryAccount:
    return MemoryBudget(1 << 20).open(unreachable)


STEP = st.one_of(
    st.tuples(st.just("send"), st.sampled_from(STREAMS), st.integers(0, 60_000)),
    st.tuples(st.just("pass"), st.sampled_from(STREAMS), st.integers(0, 16_384)),
    st.tuples(st.just("credit"), st.sampled_from((0, *STREAMS)), st.integers(1, 90_000)),
    st.tuples(st.just("initial"), st.just(0), st.integers(0, 200_000)),
    st.tuples(st.just("write"), st.just(0), st.just(0)),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(STEP, max_size=60))
def test_windows_are_kept_and_everything_arrives_in_order(steps: list[tuple[str, int, int]]) -> None:
    receiver, memory = Receiver(), MemoryBudget(1 << 30)
    send_window = SendWindow(receiver, memory.open(unreachable))
    sent = dict.fromkeys(STREAMS, b"")
    for stream in STREAMS:
        send_window.open(stream)
        receiver.rooms[stream] = INITIAL_WINDOW

    def credit(stream: int, increment: int) -> None:
        if stream:
            receiver.rooms[stream] += increment
        else:
            receiver.room += increment
        send_window.credit(stream, struct.pack(">L", increment))
        while send_window.on_socket_written():
            send_window.pump()

    for number, (what, stream, amount) in enumerate(steps):
        content = bytes([number % 256]) * amount
        if what == "send":
            send_window.send(stream, content)
            sent[stream] += content
        elif what == "pass":
            if send_window.try_consume(stream, amount):
                receiver.put(frame(DATA, 0, stream, content))
                sent[stream] += content
        elif what == "write":
            send_window.on_socket_written()
            send_window.pump()
        elif what == "credit":
            credit(stream, amount)
        else:
            send_window.announced(amount)
            for stream_id in receiver.rooms:
                receiver.rooms[stream_id] += amount - receiver.initial
            receiver.initial = amount
            send_window.acknowledged()
        for stream_id in STREAMS:
            assert sent[stream_id].startswith(receiver.content.get(stream_id, b""))
        assert send_window.waiting == sum(
            len(sent[stream_id]) - len(receiver.content.get(stream_id, b"")) for stream_id in STREAMS
        )
        assert memory.remaining == (1 << 30) - send_window.waiting
    for stream in STREAMS:
        send_window.enqueue_after_data(stream, frame(HEADERS, END_STREAM, stream, b""))
    credit(0, 10_000_000)
    for stream in STREAMS:
        credit(stream, 10_000_000)
    assert {stream: receiver.content.get(stream, b"") for stream in STREAMS} == sent
    assert sorted(receiver.ended) == list(STREAMS) and not send_window.waiting


@pytest.mark.parametrize(
    ("stream", "payload", "message"),
    [
        (0, b"\0\0\0", "WINDOW_UPDATE of 3 bytes"),
        (0, b"\0\0\0\0", "WINDOW_UPDATE of nothing"),
        (1, b"\0\0\0\0", "WINDOW_UPDATE of nothing"),
        (0, b"\x7f\xff\xff\xff", "the connection's window is too large"),
        (1, b"\x7f\xff\xff\xff", "the window of stream 1 is too large"),
    ],
)
def test_window_updates_that_break_the_rules_are_refused(stream: int, payload: bytes, message: str) -> None:
    send_window = SendWindow(Receiver(), account())
    send_window.open(1)
    with pytest.raises(StreamError if stream else FrameError, match=message):
        send_window.credit(stream, payload)


def test_streams_that_have_ended_are_forgotten() -> None:
    receiver = Receiver()
    memory = account()
    send_window = SendWindow(receiver, memory)
    receive_window = ReceiveWindow(receiver, send_window, memory)
    for stream in range(1, 2_001, 2):
        send_window.open(stream)
        send_window.send(stream, b"x" * 10)
        receive_window.credit(stream, 10)
        send_window.close(stream)
        receive_window.close(stream)
    send_window.credit(999, struct.pack(">L", 5))  # of a stream that is gone
    remaining: Any = send_window._queues, send_window._blocked, receive_window._streams
    assert remaining == ({}, {}, {})


def test_a_sender_gets_back_every_byte_before_its_windows_are_spent() -> None:
    class Sender:
        def __init__(self) -> None:
            self.rooms = {0: CONNECTION_WINDOW, 1: STREAM_WINDOW}

        def put(self, frame: bytes) -> None:
            self.rooms[HEADER.unpack_from(frame)[4]] += int.from_bytes(frame[9:], "big")

    sender = Sender()
    memory = account()
    receive_window = ReceiveWindow(sender, SendWindow(Receiver(), memory), memory)
    for _ in range(2_000):
        sender.rooms[0] -= 10_000
        sender.rooms[1] -= 10_000
        assert min(sender.rooms.values()) > 0
        receive_window.credit(1, 10_000)
    assert sender.rooms[0] <= CONNECTION_WINDOW and sender.rooms[1] <= STREAM_WINDOW
