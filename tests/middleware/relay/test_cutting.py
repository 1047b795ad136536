"""Claim: where the network cuts the bytes makes no difference to what the relay hands on."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path
from typing import Any

import pytest
from benchmarks.harness.by_hand import Pipe, enforcing_by_hand, unconnected
from benchmarks.harness.parts import INFER, inference, inline_guard, safe_traffic, settings
from hpack import Decoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tocsin.http2.frames import PREFACE, frame
from tocsin.http2.header_literals import block
from tocsin.judgement.guard import Guard
from tocsin.relay.managed import ManagedConnection
from tocsin.relay.server import Relay
from tocsin.verdict import METADATA_KEY, Verdict


def padded(plain: Any, length: int) -> bytes:
    plain.flags.add("PADDED")
    plain.pad_length = length
    return bytes(plain.serialize())


def grpc_frame(content: bytes) -> bytes:
    return b"\0" + struct.pack(">L", len(content)) + content


SAFE = safe_traffic(3, seed=5)
ANSWERS = {stream: grpc_frame(inference(SAFE, slice(i, i + 1))) for i, stream in enumerate((1, 3, 5))}
RESPONSE = block([(":status", "200"), ("content-type", "application/grpc")])
TRAILERS = block([("grpc-status", "0"), ("grpc-message", "")])


def client_bytes() -> bytes:
    ask = block([(":method", "POST"), (":path", INFER), ("content-type", "application/grpc"), ("x-session", "s")])
    opening = SettingsFrame(0)
    opening.settings = {4: 1 << 20, 5: 32_768}
    parts = [PREFACE, opening.serialize(), SettingsFrame(0, flags=["ACK"]).serialize()]
    for stream in (1, 3, 5, 7):
        head, tail = ask[:20], ask[20:]
        parts.append(HeadersFrame(stream, data=head).serialize())
        parts.append(ContinuationFrame(stream, data=tail, flags=["END_HEADERS"]).serialize())
        parts.append(padded(DataFrame(stream, data=grpc_frame(b"request")[:4]), 7))
        parts.append(DataFrame(stream, data=grpc_frame(b"request")[4:], flags=["END_STREAM"]).serialize())
    parts.append(PriorityFrame(9, depends_on=1, stream_weight=3).serialize())
    parts.append(WindowUpdateFrame(0, window_increment=65_535).serialize())
    return b"".join(parts)


def server_bytes() -> bytes:
    opening = SettingsFrame(0)
    opening.settings = {1: 4096, 3: 128}
    parts = [opening.serialize(), SettingsFrame(0, flags=["ACK"]).serialize(), PingFrame(0, b"pingpong").serialize()]
    head = HeadersFrame(1, data=RESPONSE, flags=["END_HEADERS", "PRIORITY"])
    head.stream_weight = 3
    parts.append(padded(head, 9))
    parts.append(HeadersFrame(3, data=RESPONSE, flags=["END_HEADERS"]).serialize())
    parts.append(padded(DataFrame(1, data=ANSWERS[1][:50]), 200))
    parts.append(DataFrame(3, data=ANSWERS[3]).serialize())
    parts.append(HeadersFrame(3, data=TRAILERS, flags=["END_HEADERS", "END_STREAM"]).serialize())
    parts.append(RstStreamFrame(3, error_code=0).serialize())
    parts.append(DataFrame(1, data=ANSWERS[1][50:]).serialize())  # under way when the trailers above are let go
    parts.append(frame(0xFA, 3, 0, b"unknown"))
    parts.append(HeadersFrame(1, data=TRAILERS[:3], flags=["END_STREAM"]).serialize())
    parts.append(ContinuationFrame(1, data=TRAILERS[3:10]).serialize())
    parts.append(ContinuationFrame(1, data=TRAILERS[10:], flags=["END_HEADERS"]).serialize())
    refused = block([(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "5")])
    parts.append(HeadersFrame(5, data=refused, flags=["END_HEADERS", "END_STREAM"]).serialize())
    parts.append(RstStreamFrame(7, error_code=8).serialize())
    parts.append(GoAwayFrame(0, last_stream_id=7, error_code=0, additional_data=b"bye").serialize())
    return b"".join(parts)


def read(stream: bytes) -> dict[int, list[Any]]:
    """By stream: what its frames say, with header blocks decoded and joined."""
    by_stream: dict[int, list[Any]] = {}
    view = memoryview(stream)
    decoder = Decoder()
    open_block = b""
    while view:
        parsed, length = Frame.parse_frame_header(view[:9])
        assert len(view) >= 9 + length, "the relay handed on half a frame"
        parsed.parse_body(view[9 : 9 + length])
        view = view[9 + length :]
        said: Any = type(parsed).__name__, sorted(parsed.flags)
        if isinstance(parsed, HeadersFrame | ContinuationFrame):
            open_block += parsed.data
            if "END_HEADERS" not in parsed.flags:
                continue
            said = "headers", [tuple(map(str, pair)) for pair in decoder.decode(open_block)]
            open_block = b""
        elif isinstance(parsed, DataFrame):
            said = "data", bytes(parsed.data)
        elif isinstance(parsed, SettingsFrame):
            said = "settings", dict(parsed.settings)
        by_stream.setdefault(parsed.stream_id, []).append(said)
    return by_stream


async def relayed(config: Any, guard: Guard, client: list[bytes], server: list[bytes]) -> tuple[bytes, bytes]:
    """What reaches the server and the client when the bytes arrive in these pieces."""
    relay = Relay(config, guard)
    relay.context.start()
    connection = relay.connection(unconnected(relay))
    to_client, to_server = Pipe(), Pipe()
    connection.upstream.connection_made(to_server)  # type: ignore[arg-type]
    connection.downstream.connection_made(to_client)  # type: ignore[arg-type]
    for piece in client:
        connection.downstream.data_received(piece)
    for piece in server:
        connection.upstream.data_received(piece)
        if len(server) < 20:
            await asyncio.sleep(0)
    for _ in range(3):
        await asyncio.sleep(0)
    assert not relay.context.not_understood["malformed"], bytes(to_client.written) + bytes(to_server.written)
    assert not connection.streams and relay.context.memory.remaining == config.max_memory
    return bytes(to_server.written), bytes(to_client.written)


def joined(said: list[Any]) -> tuple[bytes, list[Any]]:
    """A stream's content, and its headers without the verdict."""
    data = b"".join(frame[1] for frame in said if frame[0] == "data")
    headers = [[pair for pair in f[1] if pair[0] != METADATA_KEY] for f in said if f[0] == "headers"]
    return data, headers


def pieces(content: bytes, places: list[int]) -> list[bytes]:
    at = sorted({0, len(content), *(place % len(content) for place in places)})
    return [content[a:b] for a, b in zip(at, at[1:], strict=False)]


@pytest.fixture(scope="module", params=["observe", "annotate", "enforce"])
def relay_parts(bundle: Path, request: pytest.FixtureRequest) -> tuple[Any, Guard]:
    config = settings(1, bundle, mode=request.param)
    return config, inline_guard(config)


async def test_every_single_cut_gives_the_same(relay_parts: tuple[Any, Guard]) -> None:
    client, server = client_bytes(), server_bytes()
    uncut = await relayed(*relay_parts, [client], [server])
    expected = read(uncut[0][len(PREFACE) :]), read(uncut[1])
    for place in range(1, max(len(client), len(server))):
        got = await relayed(*relay_parts, pieces(client, [place]), pieces(server, [place]))
        assert (read(got[0][len(PREFACE) :]), read(got[1])) == expected, f"cut at byte {place}"


async def test_byte_by_byte_gives_the_same(relay_parts: tuple[Any, Guard]) -> None:
    client, server = client_bytes(), server_bytes()
    uncut = await relayed(*relay_parts, [client], [server])
    got = await relayed(*relay_parts, [bytes([b]) for b in client], [bytes([b]) for b in server])
    assert read(got[0][len(PREFACE) :]) == read(uncut[0][len(PREFACE) :])
    joined = {stream: [said for said in frames if said[0] != "data"] for stream, frames in read(uncut[1]).items()}
    assert {stream: [said for said in frames if said[0] != "data"] for stream, frames in read(got[1]).items()} == joined


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 10_000), max_size=25), st.lists(st.integers(0, 10_000), max_size=25))
def test_any_cuts_give_the_same(bundle: Path, client_cuts: list[int], server_cuts: list[int]) -> None:
    config = settings(1, bundle, mode="annotate")
    guard = inline_guard(config)
    client, server = client_bytes(), server_bytes()

    async def both() -> tuple[Any, Any]:
        return (
            await relayed(config, guard, [client], [server]),
            await relayed(config, guard, pieces(client, client_cuts), pieces(server, server_cuts)),
        )

    uncut, got = asyncio.run(both())
    assert read(got[0][len(PREFACE) :]) == read(uncut[0][len(PREFACE) :])
    assert read(got[1]) == read(uncut[1])


async def test_what_is_handed_on_is_what_came(relay_parts: tuple[Any, Guard]) -> None:
    client, server = client_bytes(), server_bytes()
    to_server, to_client = await relayed(*relay_parts, [client], [server])
    if relay_parts[0].mode == "enforce":  # other frames, whose messages and trailers are the same
        for stream in (1, 3, 5):
            assert joined(read(to_client)[stream]) == joined(read(server)[stream])
        return
    came, got = read(server), read(to_client)
    annotated = relay_parts[0].mode == "annotate"
    assert got[0][0] == ("settings", {1: 0, 3: 128})
    assert sorted(map(str, got[0][1:])) == sorted(map(str, came[0][1:]))
    assert got[5] == came[5] and got[7] == came[7]
    for stream in (1, 3):
        verdicts = [pair for pair in got[stream][-1 if stream == 1 else -2][1] if pair[0] == METADATA_KEY]
        assert len(verdicts) == annotated
        if annotated:
            assert Verdict.from_metadata(verdicts[0][1]).unscored is None
        strip = [
            (kind, [pair for pair in said if pair[0] != METADATA_KEY]) if kind == "headers" else (kind, said)
            for kind, said in got[stream]
        ]
        assert strip == came[stream]
    sent, handed = read(client[len(PREFACE) :]), read(to_server[len(PREFACE) :])
    assert handed.pop(0)[0] == ("settings", {1: 0, 4: 1 << 20, 5: 32_768})
    sent.pop(0)
    assert handed == sent


async def test_what_is_let_go_while_a_frame_passes_comes_before_what_follows_it(relay_parts: tuple[Any, Guard]) -> None:
    calls = [(1, INFER), (3, "/test.Model/Unary")]
    client = PREFACE + SettingsFrame(0).serialize() + SettingsFrame(0, flags=["ACK"]).serialize()
    for stream, path in calls:
        ask = block([(":method", "POST"), (":path", path), ("content-type", "application/grpc")])
        client += HeadersFrame(stream, data=ask, flags=["END_HEADERS"]).serialize()
        client += DataFrame(stream, data=grpc_frame(b"ask"), flags=["END_STREAM"]).serialize()
    opening = SettingsFrame(0).serialize() + SettingsFrame(0, flags=["ACK"]).serialize()
    heads = b"".join(HeadersFrame(stream, data=RESPONSE, flags=["END_HEADERS"]).serialize() for stream, _ in calls)
    tails = b"".join(
        HeadersFrame(stream, data=TRAILERS, flags=["END_HEADERS", "END_STREAM"]).serialize() for stream, _ in calls
    )
    passing = DataFrame(3, data=grpc_frame(b"x" * 5_000)).serialize()
    first = opening + heads + DataFrame(1, data=ANSWERS[1]).serialize() + passing[:2_000]
    _, to_client = await relayed(*relay_parts, [client], [first, passing[2_000:] + tails])
    got = read(to_client)
    for stream, content in ((1, ANSWERS[1]), (3, grpc_frame(b"x" * 5_000))):
        assert [frame[0] for frame in got[stream]] == ["headers", "data", "headers"], stream
        assert joined(got[stream])[0] == content


async def test_credits_for_the_upstream_never_stand_inside_a_request(bundle: Path) -> None:
    _, connection, to_client, to_server = enforcing_by_hand(bundle)
    assert isinstance(connection, ManagedConnection)
    connection.windows.from_server.much_of_connection = 70_000  # credited when the caller has caught up
    hello = SettingsFrame(0).serialize() + SettingsFrame(0, flags=["ACK"]).serialize()
    ask = block([(":method", "POST"), (":path", "/test.Model/Both"), ("content-type", "application/grpc")])
    asking = DataFrame(1, data=b"\xb3" * 5_000, flags=["END_STREAM"]).serialize()
    opening = SettingsFrame(0)
    opening.settings = {4: 1 << 20}  # room on the stream; the connection's is what it waits for
    more = WindowUpdateFrame(0, window_increment=100_000).serialize()
    said = (
        PREFACE
        + opening.serialize()
        + hello
        + HeadersFrame(1, data=ask, flags=["END_HEADERS"]).serialize()
        + asking[:2_000]
    )
    connection.downstream.data_received(said)
    answer = HeadersFrame(1, data=RESPONSE, flags=["END_HEADERS"]).serialize()
    answer += DataFrame(1, data=b"x" * 16_000).serialize() * 6  # more than the caller has room for
    connection.upstream.data_received(hello + SettingsFrame(0, flags=["ACK"]).serialize() + answer)
    connection.downstream.data_received(asking[2_000:] + more)
    got = read(bytes(to_server.written)[len(PREFACE) :])
    assert [frame for frame in got[1] if frame[0] == "data"] == [("data", b"\xb3" * 5_000)]
    assert sum(len(frame[1]) for frame in read(bytes(to_client.written))[1] if frame[0] == "data") == 96_000
