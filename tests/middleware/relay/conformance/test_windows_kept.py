"""Claims of RFC 9113, sections 5.2 and 6.9: windows are kept by the relay, and by those whom it gives some."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from benchmarks.harness.parts import INFER, SIGNALS, Running, running
from benchmarks.harness.parts import settings as configured
from benchmarks.harness.raw_http2 import (
    END_HEADERS,
    PREFACE,
    ErrorCode,
    Kind,
    Setting,
    call,
    frame,
    message,
    request_block,
    reset,
    settings,
    window_update,
)
from benchmarks.harness.raw_peers import RawPeer, connect, eventually, scripted_upstream
from tests.middleware.relay.conformance.harness import (
    MODES,
    SAFE,
    Surroundings,
    gives_everything_back,
    is_served,
)

MESSAGE_LENGTH = len(message(SAFE))
INITIAL = 65_535
FRAME_HEADER = 9
UP, DOWN = "/test.Model/Up", "/test.Model/Down"


def narrow(relay: Running, window: int) -> RawPeer:
    return connect(relay.target, PREFACE + settings((Setting.INITIAL_WINDOW_SIZE, window)))


def received(peer: RawPeer, stream: int | None = None) -> int:
    return len(peer.data(stream))


@pytest.mark.parametrize("mode", MODES)
def test_an_answer_waits_for_the_window_and_comes_byte_by_byte(surroundings: Surroundings, mode: str) -> None:
    """6.9.1: a sender sends no more than the window has room for, and all of that."""
    relay = surroundings.relays[mode]
    peer = narrow(relay, 0)
    peer.send(call(1, INFER, b"ok"))
    assert peer.until(lambda: peer.of(Kind.HEADERS, 1))
    assert peer.ping()
    assert received(peer) == 0
    given = 0
    for increment in (1, 2, 50, MESSAGE_LENGTH):
        peer.send(window_update(1, increment))
        given += increment
        expected = min(given, MESSAGE_LENGTH)
        assert peer.until(lambda expected=expected: received(peer) >= expected)
        assert received(peer) == expected
    assert peer.until(lambda: peer.has_ended(1))
    assert peer.data(1) == message(SAFE)
    peer.close()
    assert gives_everything_back(relay)


@pytest.mark.parametrize("mode", MODES)
def test_settings_open_the_windows_of_streams_that_are_under_way(surroundings: Surroundings, mode: str) -> None:
    """6.9.2: a change of SETTINGS_INITIAL_WINDOW_SIZE adjusts every stream's window."""
    relay = surroundings.relays[mode]
    peer = narrow(relay, 0)
    peer.send(*(call(stream, INFER, b"ok") for stream in (1, 3, 5)))
    assert peer.until(lambda: all(peer.of(Kind.HEADERS, stream) for stream in (1, 3, 5)))
    peer.send(settings((Setting.INITIAL_WINDOW_SIZE, 7)))
    assert peer.until(lambda: received(peer) == 21)
    acknowledged = len(peer.of(Kind.SETTINGS))
    peer.send(settings((Setting.INITIAL_WINDOW_SIZE, 1)))  # to -6
    assert peer.until(lambda: len(peer.of(Kind.SETTINGS)) > acknowledged)
    peer.send(window_update(1, 6))  # to 0 again
    assert peer.ping()
    peer.send(window_update(1, 1))
    assert peer.until(lambda: received(peer, 1) == 8)
    assert received(peer) == 22
    peer.send(settings((Setting.INITIAL_WINDOW_SIZE, 1 << 20)))
    assert peer.until(lambda: all(peer.has_ended(stream) for stream in (1, 3, 5)))
    assert peer.data(1) == peer.data(5) == message(SAFE)
    peer.close()
    assert gives_everything_back(relay)


@pytest.mark.parametrize("mode", MODES)
def test_the_last_of_several_values_in_one_frame_counts(surroundings: Surroundings, mode: str) -> None:
    """6.5.3: values are processed in the order they appear."""
    relay = surroundings.relays[mode]
    peer = connect(relay.target, PREFACE + settings(*[(Setting.INITIAL_WINDOW_SIZE, size) for size in (0, 5, 1 << 20)]))
    peer.send(call(1, INFER, b"ok"))
    assert peer.until(lambda: peer.has_ended(1))
    assert peer.data(1) == message(SAFE)
    peer.close()


@pytest.mark.parametrize("mode", MODES)
def test_one_stream_without_a_window_does_not_stop_the_others(surroundings: Surroundings, mode: str) -> None:
    """5.2.1: windows of a stream hold back that stream."""
    relay = surroundings.relays[mode]
    peer = narrow(relay, 0)
    peer.send(call(1, INFER, b"ok"), call(3, INFER, b"ok"))
    assert peer.until(lambda: peer.of(Kind.HEADERS, 3))
    peer.send(window_update(3, 1 << 16))
    assert peer.until(lambda: peer.has_ended(3))
    assert received(peer, 1) == 0
    peer.close()
    assert gives_everything_back(relay)


@pytest.mark.parametrize("mode", MODES)
def test_a_reset_takes_what_waits_for_a_window_along(surroundings: Surroundings, mode: str) -> None:
    relay = surroundings.relays[mode]
    peer = narrow(relay, 0)
    for stream in range(1, 41, 2):
        peer.send(call(stream, INFER, b"ok"))
    assert peer.until(lambda: all(peer.of(Kind.HEADERS, stream) for stream in range(1, 41, 2)))
    peer.send(*(frame(Kind.RST_STREAM, 0, stream, bytes(4)) for stream in range(1, 41, 2)))
    assert peer.ping()
    peer.send(call(101, "/test.Model/Unary", b""), window_update(101, 100))
    assert peer.until(lambda: peer.has_ended(101))
    assert received(peer) == len(message(b""))
    peer.close()
    assert gives_everything_back(relay)


FLOOD = 64 << 20  # bytes that somebody who ignores windows sends at most


def flood(peer: RawPeer, stream: int, padding: int = 0) -> int:
    """DATA regardless of windows, until the other end stops it; how much was sent."""
    payload, flags = bytes(16_000 - padding), 0
    opening = frame(Kind.DATA, 0, stream, message(bytes(3_900_000))[:5])  # a server takes messages of 4 MB
    if padding:
        payload, flags = bytes((padding,)) + payload + bytes(padding), 0x8
    piece, sent = frame(Kind.DATA, flags, stream, payload) * 16, 0
    peer.send(opening)
    while sent < FLOOD and not peer.closed and not peer.of(Kind.RST_STREAM, stream) and peer.send(piece):
        sent += len(piece)
    return sent


@pytest.mark.parametrize("padding", [0, 255])
@pytest.mark.parametrize("path", [INFER, UP])
def test_who_sends_more_than_the_relay_gave_is_stopped(surroundings: Surroundings, path: str, padding: int) -> None:
    """5.2.2 and 6.9.1: FLOW_CONTROL_ERROR, of the stream or of the connection."""
    relay = surroundings.relays["enforce"]
    peer = connect(relay.target)
    peer.send(frame(Kind.HEADERS, END_HEADERS, 1, request_block(path, ("sleep", "3"))))
    flood(peer, 1, padding)
    assert peer.until(lambda: peer.closed or peer.of(Kind.RST_STREAM, 1))
    codes = [int.from_bytes(goaway.payload[4:8], "big") for goaway in peer.of(Kind.GOAWAY)]
    codes += [int.from_bytes(reset.payload, "big") for reset in peer.of(Kind.RST_STREAM, 1)]
    # a server may have reset the stream for reasons of its own, such as padding, which C-core does not read
    assert ErrorCode.FLOW_CONTROL_ERROR in codes or (padding and codes) or (peer.closed and not codes), codes
    assert is_served(relay.target)
    peer.close()
    assert gives_everything_back(relay)


def test_an_upstream_that_sends_more_than_the_relay_gave_is_stopped(bundle: Path) -> None:
    """The same in the other direction, where the caller reads nothing."""

    def script(peer: RawPeer, stream: int) -> None:
        peer.send(frame(Kind.HEADERS, END_HEADERS, stream, b"\x88" + b"\x0f\x10\x10application/grpc"))
        threading.Thread(target=flood, args=(peer, stream), daemon=True).start()

    with scripted_upstream() as upstream:
        upstream.script = script
        guarded = {"bundle": bundle, "signals": SIGNALS}
        config = configured(upstream.port, bundle, mode="enforce", models={"digits": guarded}, max_memory="16MiB")
        with running(config) as relay:
            peer = narrow(relay, 0)
            peer.send(call(1, DOWN, b"x"))
            assert eventually(lambda: upstream.peers)
            behind = upstream.peers[0]
            assert behind.until(lambda: behind.closed or behind.of(Kind.RST_STREAM))
            codes = [int.from_bytes(reset.payload[-4:], "big") for reset in behind.of(Kind.RST_STREAM)]
            codes += [int.from_bytes(goaway.payload[4:8], "big") for goaway in behind.of(Kind.GOAWAY)]
            assert ErrorCode.FLOW_CONTROL_ERROR in codes or (behind.closed and not codes), codes
            peer.send(window_update(0, 1 << 24), window_update(1, 1 << 24))
            assert peer.until(lambda: peer.closed or peer.has_ended(1)), "the caller is not told"
            peer.close()
            assert gives_everything_back(relay)


@pytest.mark.parametrize("window", [0, 1, 1_000, 70_000])
@pytest.mark.parametrize("mode", MODES)
def test_the_relay_sends_an_upstream_no_more_than_its_windows(bundle: Path, mode: str, window: int) -> None:
    """6.9.1, towards an upstream that gives its windows little by little and takes frames of 16,384 bytes."""
    content = bytes(range(256)) * 1_200
    expected = message(content)

    def requests() -> Iterator[bytes]:
        yield content

    def script(peer: RawPeer, stream: int) -> None:
        peers.append(peer)

    peers: list[RawPeer] = []
    with scripted_upstream() as upstream:
        upstream.opening = settings((Setting.INITIAL_WINDOW_SIZE, window))
        upstream.script = script
        guarded = {"bundle": bundle, "signals": SIGNALS}
        config = configured(upstream.port, bundle, mode=mode, models={"digits": guarded})
        with running(config) as relay, grpc.insecure_channel(relay.target) as channel:
            pending = channel.stream_unary(UP).future(requests(), timeout=60)
            assert eventually(lambda: peers)
            peer, stream, given = peers[0], 1, {0: INITIAL, 1: window}
            for _ in range(200):
                room = min(given[0], given[1], len(expected))
                assert peer.until(lambda room=room: received(peer) >= room)
                assert peer.ping(), "the relay does not answer or pass on a PING"
                assert received(peer) == room
                if room == len(expected):
                    break
                peer.send(window_update(0, 40_000), window_update(stream, 30_000))
                given[0] += 40_000
                given[1] += 30_000
            assert peer.data() == expected
            assert max(len(received_frame.payload) for received_frame in peer.of(Kind.DATA)) <= 16_384
            pending.cancel()


PADDED_FRAME = frame(Kind.DATA, 0x8, 1, b"\xff" + bytes(16_000 + 255))
PADDED_SIZE = len(PADDED_FRAME) - FRAME_HEADER


def credit(peer: RawPeer, stream: int) -> int:
    """What the windows of a stream (or of the connection: 0) have been worth since they began."""
    initial = INITIAL
    for settings_frame in peer.of(Kind.SETTINGS) if stream else []:
        pairs = struct.iter_unpack(">HL", settings_frame.payload)
        initial = next((value for setting, value in pairs if setting == Setting.INITIAL_WINDOW_SIZE), initial)
    return initial + sum(int.from_bytes(update.payload, "big") for update in peer.of(Kind.WINDOW_UPDATE, stream))


def test_credit_of_padding_is_returned(bundle: Path) -> None:
    """6.1: padding counts, and comes back to both windows as the data beside it does."""
    beginning = struct.pack(">BL", 0, 3 << 20)  # of a message that the upstream waits for

    def script(peer: RawPeer, stream: int) -> None:
        peer.send(window_update(0, 1 << 24))

    with scripted_upstream() as upstream:
        upstream.opening = settings((Setting.INITIAL_WINDOW_SIZE, 1 << 24))
        upstream.script = script
        guarded = {"bundle": bundle, "signals": SIGNALS}
        config = configured(upstream.port, bundle, mode="enforce", models={"digits": guarded})
        with running(config) as relay:
            peer = connect(relay.target)
            peer.send(frame(Kind.HEADERS, END_HEADERS, 1, request_block(INFER)))
            assert peer.until(lambda: peer.of(Kind.SETTINGS))
            peer.send(frame(Kind.DATA, 0, 1, beginning))
            sent = len(beginning)
            while sent < 3 << 20:
                fits = peer.until(lambda sent=sent: min(credit(peer, 0), credit(peer, 1)) - sent >= PADDED_SIZE)
                assert fits and not peer.closed, f"no more credit after {sent} bytes"
                peer.send(PADDED_FRAME)
                sent += PADDED_SIZE
            assert not peer.has_ended(1)
            peer.send(reset(1))
            peer.close()
            assert gives_everything_back(relay)


def test_credit_of_dropped_data_is_returned(surroundings: Surroundings) -> None:
    """6.9.1: DATA of a stream that has ended counts; a connection never runs dry of it."""
    relay = surroundings.relays["enforce"]
    peer = connect(relay.target)
    peer.send(frame(Kind.HEADERS, END_HEADERS, 1, request_block("/no.Such/Method")))
    assert peer.until(lambda: peer.has_ended(1))
    sent = 0
    while sent < 8 << 20:
        fits = peer.until(lambda sent=sent: credit(peer, 0) - sent >= PADDED_SIZE)
        assert fits and not peer.closed, f"no more credit after {sent} bytes"
        peer.send(PADDED_FRAME)
        sent += PADDED_SIZE
    peer.send(call(5, INFER, b"ok"))
    assert peer.until(lambda: peer.has_ended(5))
    assert peer.fields(5)["grpc-status"] == "0"
    peer.close()
    assert gives_everything_back(relay)


@pytest.mark.parametrize("mode", MODES)
def test_what_waits_for_a_window_is_given_up_once_the_caller_can_give_none(
    surroundings: Surroundings, mode: str
) -> None:
    """A caller that has closed its side for writing sends no WINDOW_UPDATE any more."""
    relay = surroundings.relays[mode]
    peer = narrow(relay, 0)
    peer.send(call(1, INFER, b"ok"), frame(Kind.HEADERS, END_HEADERS, 3, request_block(INFER)))
    assert peer.until(lambda: peer.of(Kind.HEADERS, 1))
    assert peer.ping()
    peer.socket.shutdown(socket.SHUT_WR)
    assert peer.until(lambda: peer.closed), "the connection is kept although nothing can come of it"
    assert gives_everything_back(relay)
