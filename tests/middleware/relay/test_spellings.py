"""Claim: however a request is spelt, what a real server (C-core) serves of a guarded method is judged or refused."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from benchmarks.harness.parts import INFER, SIGNALS, Running, far_away, inference, running, settings
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tests.raw_client import field, integer, raw_client, string

from tocsin.grpc_wire.deframer import framed
from tocsin.http2 import frames
from tocsin.http2.frames import CONTINUATION, DATA, END_HEADERS, END_STREAM, HAS_PRIORITY, HEADERS, PADDED
from tocsin.http2.headers import STATIC_FIELDS
from tocsin.relay.local_reply import RESOURCE_EXHAUSTED

BAD = inference(far_away(1), slice(0, 1))  # alarms, and is blocked
OTHER = "/other.Service/Method"
JUDGED, REFUSED = "7", "14"
TARGET = field(":method", "POST") + field(":scheme", "http")
REST = field(":authority", "x") + field("te", "trailers") + field("content-type", "application/grpc")
PATH = field(":path", INFER)


class ServesAll(grpc.GenericRpcHandler):  # type: ignore[misc]
    """A server that answers every method with a response that alarms, and remembers what it was asked."""

    def __init__(self) -> None:
        self.methods: list[str] = []

    def service(self, details: Any) -> Any:
        self.methods.append(details.method)
        return grpc.unary_unary_rpc_method_handler(lambda request, context: BAD)


class Served(NamedTuple):
    server: ServesAll
    direct: str
    relay: Running


@pytest.fixture(scope="module")
def served(bundle: Path) -> Iterator[Served]:
    handler = ServesAll()
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    model = {
        "bundle": bundle,
        "signals": SIGNALS,
        "session": "metadata.authorization",
        "group": "metadata.x-group",
        "on_alarm": {"warning": "block", "critical": "block"},
    }
    try:
        config = settings(port, bundle, mode="enforce", fail="closed", scoring_budget="20s", models={"digits": model})
        with running(config) as relay:
            yield Served(handler, f"127.0.0.1:{port}", relay)
    finally:
        server.stop(0).wait()


def ask(block: bytes, flags: int = END_HEADERS) -> bytes:
    """A request with this header block on stream 1."""
    return frames.frame(HEADERS, flags, 1, block) + frames.frame(DATA, END_STREAM, 1, framed(b"ask"))


def outcome(served: Served, request: bytes, *, acknowledges: bool = True) -> str:
    """The status that the relay's caller sees, or how the stream ended. Nothing unjudged comes out."""
    before = len(served.server.methods)
    with raw_client(served.relay.target, acknowledges=acknowledges) as client:
        client.send(request)
        answer = client.answer(1)
    methods = served.server.methods[before:]
    assert BAD not in answer.content or methods == [OTHER], (methods, answer.fields)
    if answer.status == REFUSED:
        assert not methods
    return answer.status or answer.end


REGULAR = {
    "plain": TARGET + PATH + REST,
    "Huffman": TARGET + field(":path", INFER, huffman=True) + REST,
    "a name by index": TARGET + field("", INFER, index=4) + REST,
    "a name by the other index": TARGET + field("", INFER, index=5, huffman=True) + REST,
    "never indexed": TARGET + field(":path", INFER, kind=0x10) + REST,
    "never indexed, a name by index": TARGET + field("", INFER, index=4, kind=0x10) + REST,
    "with indexing": TARGET + field(":path", INFER, kind=0x40) + REST,
    "with indexing, a name by index": TARGET + field("", INFER, index=5, kind=0x40, huffman=True) + REST,
    "fields by index": b"\x83\x86" + PATH + REST,
    "a size update in front": b"\x20" + TARGET + PATH + REST,
    "two size updates in front": b"\x20\x3f\xe1\x1f" + TARGET + PATH + REST,
    "a long integer": TARGET
    + b"\x04\x7f"
    + bytes((0x80,))
    + b"\x00"
    + (INFER + "/" * (127 - len(INFER))).encode()
    + REST,
    "keys by index": TARGET + PATH + REST + b"\xa0" + field("", "me", index=23),
    "no slash": TARGET + field(":path", INFER[1:]) + REST,
    "two slashes": TARGET + field(":path", "/" + INFER) + REST,
    "a slash behind": TARGET + field(":path", INFER + "/") + REST,
    "slashes between": TARGET + field(":path", INFER.replace("/M", "///M")) + REST,
    "a query": TARGET + field(":path", INFER + "?x=/a/b") + REST,
    "a fragment": TARGET + field(":path", INFER + "#/a/b") + REST,
    "parameters": TARGET + field(":path", INFER + ";v=1") + REST,
    "escapes": TARGET + field(":path", INFER.replace("M", "%4d")) + REST,
    "escapes of escapes": TARGET + field(":path", INFER.replace("M", "%254D")) + REST,
    "an escaped slash": TARGET + field(":path", INFER.replace("/M", "%2FM")) + REST,
    "lower case": TARGET + field(":path", INFER.lower()) + REST,
    "dots": TARGET + field(":path", "/x/.." + INFER.replace("/M", "/./M")) + REST,
    "a prefix": TARGET + field(":path", "/v2/models" + INFER) + REST,
    "a whole URL": TARGET + field(":path", "http://x" + INFER) + REST,
    "backslashes": TARGET + field(":path", INFER.replace("/", "\\")) + REST,
    "a space in front": TARGET + field(":path", " " + INFER) + REST,
    "a space behind": TARGET + field(":path", INFER + " ") + REST,
    "a NUL behind": TARGET + field(":path", INFER + "\0") + REST,
    "no authority": TARGET + PATH + field("host", "x") + REST[len(field(":authority", "x")) :],
    "other content types": TARGET
    + PATH
    + field("te", "trailers")
    + field("content-type", "text/plain")
    + field("host", "x"),
    "gRPC-web's content type": TARGET
    + PATH
    + field("te", "trailers")
    + field("content-type", "application/grpc-web+proto")
    + field("host", "x"),
    "an upper-case name of no interest": TARGET + PATH + REST + field("x-other", "a"),
}

SURPLUS = b"\xff"
IRREGULAR = {
    "surplus padding of a name": TARGET + field(":path", INFER, huffman=True, surplus=SURPLUS) + REST,
    "surplus padding of several bytes": TARGET + field(":path", INFER, huffman=True, surplus=SURPLUS * 4) + REST,
    "surplus padding of a value": TARGET + b"\x04" + string(INFER, huffman=True, surplus=SURPLUS) + REST,
    "surplus padding of a key": TARGET + PATH + REST + field("authorization", "a", huffman=True, surplus=SURPLUS),
    "a path twice": TARGET + PATH + field(":path", OTHER) + REST,
    "a path twice, the other way": TARGET + field(":path", OTHER) + PATH + REST,
    "a path by index behind": TARGET + PATH + b"\x84" + REST,
    "a late path": TARGET + REST + PATH,
    "a late second path": TARGET + field(":path", OTHER) + REST + PATH,
    "a method twice": field(":method", "GET") + TARGET + PATH + REST,
    "an unknown pseudo-header": TARGET + PATH + field(":protocol", "x") + REST,
    "a status": TARGET + PATH + b"\x88" + REST,
    "an upper-case path": TARGET + field(":Path", INFER) + REST,
    "an upper-case second path": TARGET + field(":path", OTHER) + field(":PATH", INFER) + REST,
    "an upper-case key": TARGET + PATH + REST + field("Authorization", "me"),
    "spaces around a key": TARGET + PATH + REST + field("x-group ", "me"),
    "two values of a key": TARGET + PATH + REST + field("authorization", "a") + field("authorization", "b"),
    "two encodings": TARGET + PATH + REST + field("grpc-encoding", "gzip") + field("grpc-encoding", "identity"),
    "no path": TARGET + REST,
    "a size update between": TARGET + b"\x20" + PATH + REST,
    "a size update behind": TARGET + PATH + REST + b"\x20",
    "the dynamic table": TARGET + field(":path", INFER, kind=0x40) + b"\xbe" + REST,
    "index 0": TARGET + PATH + REST + b"\x80",
    "an endless integer": TARGET + PATH + REST + b"\xff\xff\xff\xff\xff\xff\xff",
    "a cut value": TARGET + PATH + REST + b"\x00\x01a\x05b",
    "a cut name": TARGET + PATH + REST + b"\x00\x05ab",
}


@pytest.mark.parametrize("name", REGULAR)
def test_what_a_server_may_serve_as_the_method_is_judged(served: Served, name: str) -> None:
    assert outcome(served, ask(REGULAR[name])) == JUDGED
    early = outcome(served, ask(REGULAR[name]), acknowledges=False)
    assert early == JUDGED


@pytest.mark.parametrize("name", IRREGULAR)
def test_what_servers_read_in_different_ways_is_refused(served: Served, name: str) -> None:
    assert outcome(served, ask(IRREGULAR[name])) == REFUSED
    assert outcome(served, ask(IRREGULAR[name]), acknowledges=False) in (REFUSED, JUDGED, "goaway")


def test_padding_is_not_read_as_fields(served: Served) -> None:
    """C-core reads the pad length and the padding of HEADERS as part of the block."""
    other = TARGET + field(":path", OTHER) + REST
    padding = field(":path", INFER)
    padded = frames.frame(HEADERS, END_HEADERS | PADDED, 1, bytes((len(padding),)) + other + padding)
    content = frames.frame(DATA, END_STREAM, 1, framed(b"ask"))
    before = len(served.server.methods)
    with raw_client(served.direct) as client:
        client.send(padded + content)
        client.answer(1)
    assert served.server.methods[before:] == [INFER], "C-core reads padding as padding: nothing is shown here"
    before = len(served.server.methods)
    assert outcome(served, padded + content) == "0"
    assert served.server.methods[before:] == [OTHER]
    priority = bytes((3,)) + bytes(5) + TARGET + PATH + REST + bytes(3)
    assert outcome(served, frames.frame(HEADERS, END_HEADERS | PADDED | HAS_PRIORITY, 1, priority) + content) == JUDGED
    head = frames.frame(HEADERS, PADDED, 1, bytes((3,)) + TARGET + bytes(3))
    rest = frames.frame(CONTINUATION, END_HEADERS, 1, PATH + REST)
    assert outcome(served, head + rest + content) == JUDGED


def test_the_reserved_bit_of_a_stream_is_no_part_of_its_number(served: Served) -> None:
    odd = 1 << 31 | 1
    request = frames.frame(HEADERS, END_HEADERS, odd, TARGET + PATH + REST)
    request += frames.frame(DATA, 0, odd, framed(b"ask"))
    for rest in (
        frames.frame(HEADERS, END_HEADERS | END_STREAM, 1, field("x", "y")),
        frames.frame(DATA, END_STREAM, 1),
        frames.frame(DATA, END_STREAM, odd),
    ):
        assert outcome(served, request + rest) == JUDGED


@pytest.mark.parametrize("stream", [0, 2])
def test_streams_that_are_not_for_clients_to_open_end_the_connection(served: Served, stream: int) -> None:
    before = len(served.server.methods)
    with raw_client(served.relay.target) as client:
        client.send(frames.frame(HEADERS, END_HEADERS, stream, TARGET + PATH + REST))
        client.send(frames.frame(DATA, END_STREAM, stream or 1, framed(b"ask")))
        assert client.answer(stream or 1).end == "goaway"
    assert len(served.server.methods) == before


@pytest.mark.parametrize("refused", [TARGET + REST, TARGET + PATH + b"\x80" + REST], ids=["no path", "damaged"])
def test_a_stream_that_was_refused_is_not_opened_again(served: Served, refused: bytes) -> None:
    """The upstream never heard of it, and would take a further header block for a new call: the connection ends, as for
    every stream that begins behind another (RFC 9113, section 5.1.1).
    """
    before = len(served.server.methods)
    with raw_client(served.relay.target) as client:
        for stream in range(1, 4_001, 2):  # more than the relay remembers
            client.send(frames.frame(HEADERS, END_HEADERS | END_STREAM, stream, refused))
        assert client.answer(3_999).status == REFUSED
        client.send(frames.frame(HEADERS, END_HEADERS, 1, TARGET + PATH + REST))
        client.send(frames.frame(DATA, END_STREAM, 1, framed(b"ask")))
        assert client.answer(1).end == "goaway"
    assert served.server.methods[before:] == []


def test_an_early_refusal_leaves_the_others_alone(served: Served) -> None:
    """Blocks that refer to a refused one reach the upstream as if they did not."""
    refused = TARGET + field(":path", OTHER, kind=0x40) + field(":path", INFER, kind=0x40) + REST
    follows = b"\x83\x86\xbe" + REST  # the path is the newest entry of the dynamic table
    with raw_client(served.relay.target, acknowledges=False) as client:
        client.send(ask(refused))
        client.send(frames.frame(HEADERS, END_HEADERS, 3, follows))
        client.send(frames.frame(DATA, END_STREAM, 3, framed(b"ask")))
        before = len(served.server.methods)
        assert client.answer(1).status == REFUSED
        assert client.answer(3).status == JUDGED
    assert served.server.methods[before:] in ([INFER], [])  # asked before or after it was looked at


LONG = {"fields": bytes((0x90,)) * 60_000, "bytes": TARGET + PATH + field("x", "y" * 70_000)}


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("acknowledges", [True, False])
def test_what_is_too_long_is_refused_before_it_is_decoded(served: Served, name: str, acknowledges: bool) -> None:
    size, block = frames.DEFAULT_MAX_FRAME_SIZE, LONG[name]
    request = frames.frame(HEADERS, END_STREAM, 1, block[:size])
    for at in range(size, len(block), size):
        request += frames.frame(CONTINUATION, 0, 1, block[at : at + size])
    request += frames.frame(CONTINUATION, END_HEADERS, 1)
    limited = served.relay.sidecar.relay.context.limited
    before = limited["headers"], limited["unreadable"]
    status = outcome(served, request, acknowledges=acknowledges)
    if not acknowledges:
        assert status == "goaway" and limited["headers"] == before[0] + 1
    elif name == "fields":
        assert status == REFUSED and limited["unreadable"] == before[1] + 1
    else:
        assert status == RESOURCE_EXHAUSTED and limited["headers"] == before[0] + 1


names = st.sampled_from(
    [":method", ":scheme", ":path", ":authority", "te", "content-type", "authorization", "x", ":Path"]
)
values = st.sampled_from(["POST", "http", INFER, OTHER, "x", "trailers", "application/grpc", INFER[1:], "", "GET"])
kinds = st.sampled_from([0x00, 0x10, 0x40])
surplus = st.sampled_from([b""] * 8 + [b"\xff", b"\xff\xff\xff\xff"])
literals = st.builds(field, names, values, kind=kinds, huffman=st.booleans(), surplus=surplus)
by_index = st.builds(
    lambda index, value, kind, huffman: field("", value, index=index, kind=kind, huffman=huffman),
    st.integers(1, len(STATIC_FIELDS)),
    values,
    kinds,
    st.booleans(),
)
indexed = st.integers(0, 70).map(lambda index: integer(index, 7, 0x80))
updates = st.integers(0, 5_000).map(lambda size: integer(size, 5, 0x20))
ordinary = st.sampled_from([TARGET, PATH, REST, TARGET + PATH, PATH + REST, TARGET + PATH + REST])
pieces = ordinary | ordinary | literals | by_index | indexed | updates


@st.composite
def blocks(draw: st.DrawFn) -> bytes:
    block = bytearray(b"".join(draw(st.lists(pieces, min_size=1, max_size=7))))
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        block[draw(st.integers(0, len(block) - 1))] = draw(st.integers(0, 255))
    return bytes(block)


@hypothesis_settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(blocks(), st.booleans(), st.sampled_from([b"", b"", PATH, bytes(5), b"\x04" + string(INFER)]))
def test_no_block_leads_past_judgement(served: Served, block: bytes, acknowledges: bool, padding: bytes) -> None:
    request = ask(block)
    if padding:
        request = ask(bytes((len(padding),)) + block + padding, END_HEADERS | PADDED)
    before = len(served.server.methods)
    with raw_client(served.relay.target, acknowledges=acknowledges) as client:
        client.send(request)
        answer = client.answer(1)
    if BAD in answer.content:
        assert not [method for method in served.server.methods[before:] if method.strip("/") == INFER.strip("/")]
