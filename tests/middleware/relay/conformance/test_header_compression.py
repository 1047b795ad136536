"""Claims of RFC 7541 (HPACK) about header blocks that a client sends: each names its section."""

from __future__ import annotations

import pytest
from benchmarks.harness.parts import INFER
from benchmarks.harness.raw_http2 import (
    END_HEADERS,
    END_STREAM,
    GRPC,
    PREFACE,
    ErrorCode,
    Kind,
    frame,
    integer,
    literal,
    message,
    request_block,
    settings,
)
from benchmarks.harness.raw_peers import connect
from hpack import Encoder
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from tests.middleware.relay.conformance.harness import (
    MODES,
    QUESTION,
    SERVED,
    STREAM,
    Case,
    Expected,
    Surroundings,
    Trial,
    connection_error,
    gives_everything_back,
    stream_error,
    unjudged,
)

COMPRESSION, PROTOCOL = ErrorCode.COMPRESSION_ERROR, ErrorCode.PROTOCOL_ERROR
PATH = INFER.encode()
AHEAD = literal(":method", "POST") + literal(":scheme", "http")
AFTER = literal(":authority", "test") + literal("te", "trailers") + literal("content-type", GRPC)
BLOCK = AHEAD + literal(":path", INFER) + AFTER
FAILS = connection_error(COMPRESSION, PROTOCOL) | stream_error()  # the relay may refuse alone what it cannot read


def string(content: bytes, *, huffman: bool = False, length: int | None = None) -> bytes:
    """A string literal of RFC 7541, section 5.2; `content` is encoded already."""
    return integer(len(content) if length is None else length, 7, 0x80 if huffman else 0) + content


def huffman(content: bytes) -> bytes:
    return bytes(HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(content))


def padded_with(content: bytes, padding: str) -> bytes:
    """Huffman code whose last byte is filled with these bits, over and over."""
    bits = "".join(format(REQUEST_CODES[byte], f"0{REQUEST_CODES_LENGTH[byte]}b") for byte in content)
    bits += (padding * 8)[: -len(bits) % 8]
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def request_of(block: bytes, question: bytes = QUESTION) -> bytes:
    return frame(Kind.HEADERS, END_HEADERS, STREAM, block) + question


def wrong(section: str, name: str, block: bytes, expected: Expected = FAILS) -> Case:
    """A block that cannot be decoded; an answer to it is one that must not go out."""
    return Case(section, name, request_of(block, frame(Kind.DATA, END_STREAM, STREAM, message(b"bad"))), expected)


def right(section: str, name: str, block: bytes) -> Case:
    return Case(section, name, request_of(block), SERVED)


PADDED_NAME = padded_with(b":path", "0")
assert huffman(b":path") != PADDED_NAME
HUFFMAN_PATH = b"\x04" + string(huffman(PATH), huffman=True)

SPELLINGS = [
    right("6.2.1", "a literal with indexing, its name by index", AHEAD + b"\x44" + string(PATH) + AFTER),
    right("6.2.1", "a literal with indexing, its name as a string",
          AHEAD + b"\x40" + string(b":path") + string(PATH) + AFTER),
    right("6.2.2", "a literal without indexing, its name by the other index", AHEAD + b"\x05" + string(PATH) + AFTER),
    right("6.2.3", "a literal that is never indexed, its name by index", AHEAD + b"\x14" + string(PATH) + AFTER),
    right("6.2.3", "a literal that is never indexed, its name as a string",
          AHEAD + b"\x10" + string(b":path") + string(PATH) + AFTER),
    right("5.2", "a Huffman value", AHEAD + HUFFMAN_PATH + AFTER),
    right("5.2", "a Huffman name", AHEAD + b"\x00" + string(huffman(b":path"), huffman=True) + string(PATH) + AFTER),
    right("6.1", "method and scheme by index", b"\x83\x86" + literal(":path", INFER) + AFTER),
    right("5.1", "a length in more bytes than it needs",
          BLOCK + b"\x00" + string(b"x-pad") + b"\x7f\x80\x00" + b"p" * 127),
    right("4.2", "a size update at the beginning", b"\x20" + BLOCK),
    right("4.2", "two size updates at the beginning", b"\x20\x20" + BLOCK),
    right("8.1 of 9113", "fields of every size", BLOCK + literal("x-long", "v" * 5_000) + literal("x-empty", "")),
]  # fmt: skip

FAULTS = [
    wrong("2.3.3", "an index beyond the tables", BLOCK + integer(4_000, 7, 0x80)),
    wrong("2.3.3", "an index just beyond the static table", BLOCK + b"\xbe"),
    wrong("2.3.3", "a name's index beyond the tables", BLOCK + b"\x0f\x80\x1f" + string(b"x")),
    wrong("4.2", "a size update at the end", BLOCK + b"\x20"),
    wrong("4.2", "a size update in the middle", AHEAD + b"\x20" + literal(":path", INFER) + AFTER),
    wrong("5.1", "an integer of ten bytes", BLOCK + b"\xff" + b"\xff" * 9 + b"\x01"),
    wrong("5.1", "an integer that never ends", BLOCK + b"\xff" + b"\x80" * 60),
    wrong("5.1", "a length of ten bytes", BLOCK + b"\x00\x01x\x7f" + b"\xff" * 9 + b"\x01"),
    wrong("5.2", "a value longer than the block", BLOCK + b"\x00" + string(b"x") + string(b"short", length=50)),
    wrong("5.2", "a name longer than the block", BLOCK + b"\x00" + string(b"x", length=50)),
    wrong("5.2", "a block that ends after a name", BLOCK + b"\x00" + string(b"x")),
    wrong("5.2", "Huffman padding of zeros",
          AHEAD + b"\x04" + string(padded_with(PATH + b"0", "0"), huffman=True) + AFTER),
    wrong("5.2", "a byte of Huffman padding too much",
          AHEAD + b"\x04" + string(huffman(PATH) + b"\xff", huffman=True) + AFTER),
    wrong("5.2", "EOS in a Huffman value", AHEAD + b"\x04" + string(huffman(PATH) + b"\xff" * 4, huffman=True) + AFTER),
    wrong("5.2", "a Huffman name with padding of zeros",
          AHEAD + b"\x00" + string(PADDED_NAME, huffman=True) + string(PATH) + AFTER),
    wrong("5.2", "a Huffman name with a byte of padding too much",
          AHEAD + b"\x00" + string(huffman(b":path") + b"\xff", huffman=True) + string(PATH) + AFTER),
    wrong("5.2", "EOS in a Huffman name",
          AHEAD + b"\x00" + string(huffman(b":path") + b"\xff" * 4, huffman=True) + string(PATH) + AFTER),
    wrong("6.1", "index 0", BLOCK + b"\x80"),
    wrong("6.3", "a size update above the limit", b"\x3f\xe2\xff\xff\x07" + BLOCK),
    wrong("6.3", "a size update of ten bytes", b"\x3f" + b"\xff" * 9 + b"\x01" + BLOCK),
]  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", [*SPELLINGS, *FAULTS], ids=str)
def test_header_blocks(trial: Trial, case: Case, mode: str) -> None:
    trial.check(case, mode)


EARLY = {
    "indexed fields": [(":method", "POST"), (":scheme", "http"), (":path", INFER), (":authority", "x"),
                       ("te", "trailers"), ("content-type", GRPC), ("x-custom", "value" * 9)],
    "fields that are evicted": [(":method", "POST"), (":scheme", "http"), (":path", INFER), (":authority", "x"),
                                ("te", "trailers"), ("content-type", GRPC), ("x-large", "v" * 4_000)],
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", EARLY)
def test_a_client_may_use_the_dynamic_table_until_it_has_acknowledged_another(
    surroundings: Surroundings, name: str, mode: str
) -> None:
    """RFC 9113, 6.5.3: what was sent before the acknowledgement is encoded by what held before."""
    relay = surroundings.relays[mode]
    encoder = Encoder()
    calls = [
        frame(Kind.HEADERS, END_HEADERS, stream, bytes(encoder.encode(EARLY[name])))
        + frame(Kind.DATA, END_STREAM, stream, message(b"ok"))
        for stream in (1, 3, 5, 7)
    ]
    peer = connect(relay.target, b"".join((PREFACE, settings(), *calls)))
    peer.until(lambda: peer.closed or all(peer.has_ended(stream) for stream in (1, 3, 5, 7)))
    assert [peer.fields(stream).get("grpc-status") for stream in (1, 3, 5, 7)] == ["0"] * 4
    assert not unjudged(peer, mode)
    peer.close()
    assert gives_everything_back(relay)


@pytest.mark.parametrize("mode", MODES)
def test_entries_of_a_table_that_is_gone_are_an_error(surroundings: Surroundings, mode: str) -> None:
    """RFC 9113, 4.3.1: once the client has acknowledged a table of size 0, nothing refers to it."""
    relay = surroundings.relays[mode]
    peer = connect(relay.target)
    assert peer.ping()  # the acknowledgement has been read
    encoder = Encoder()
    fields = [*EARLY["indexed fields"][:-1], ("x-custom", "v" * 40)]
    first, second = bytes(encoder.encode(fields)), bytes(encoder.encode(fields))
    assert len(second) < len(first) / 3
    for stream, block in ((1, request_block(INFER)), (3, first), (5, second)):
        peer.send(frame(Kind.HEADERS, END_HEADERS, stream, block))
        peer.send(frame(Kind.DATA, END_STREAM, stream, message(b"bad" if stream == 5 else b"ok")))
    peer.until(lambda: peer.closed or all(peer.has_ended(stream) for stream in (1, 3, 5)))
    assert peer.closed or mode != "enforce" or peer.fields(5).get("grpc-status") != "0"
    assert not unjudged(peer, "enforce" if mode == "enforce" else "observe")
    peer.close()
    assert gives_everything_back(relay)
