"""Claims about verdicts in header blocks: however the name is spelt, they are found, and nothing else is touched."""

from __future__ import annotations

import pytest
from hpack import Decoder, Encoder
from hpack.huffman_table import decode_huffman
from hypothesis import given
from hypothesis import strategies as st

from tocsin.http2.header_literals import literal
from tocsin.http2.headers import HeaderError
from tocsin.relay.verdict_fields import split_verdicts, verdict_field, verdict_text
from tocsin.verdict import FIELD_OVERHEAD, METADATA_KEY, Verdict

HUFFMAN = Encoder().huffman_coder.encode(METADATA_KEY.encode())
VALUE = '{"model":"m","alarm":null,"action":"pass","p":[0.5]}'


def field(name: bytes, *, huffman: bool, first: int = 0) -> bytes:
    """A literal of the value x, whose first byte says how it is to be indexed."""
    return bytes((first, (0x80 if huffman else 0) | len(name))) + name + b"\x01x"


SPELLINGS = {
    "plain": field(METADATA_KEY.encode(), huffman=False),
    "never indexed": field(METADATA_KEY.encode(), huffman=False, first=0x10),
    "to be indexed": field(METADATA_KEY.encode(), huffman=False, first=0x40),
    "Huffman": field(HUFFMAN, huffman=True),
    "Huffman with a byte of padding more": field(HUFFMAN + b"\xff", huffman=True),
    "Huffman with padding of zeros": field(HUFFMAN[:-1] + bytes((HUFFMAN[-1] & 0xF0,)), huffman=True),
    "capitals": field(b"Tocsin-Verdict", huffman=False),
    "Huffman capitals": field(Encoder().huffman_coder.encode(b"TOCSIN-VERDICT"), huffman=True),
}
OTHERS = {
    "shorter": field(b"tocsin-verdic", huffman=False),
    "longer": field(Encoder().huffman_coder.encode(b"tocsin-verdict2"), huffman=True),
    "of the request": literal("x-tocsin-verdict", "y"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_every_spelling_is_found_and_the_rest_is_as_it_was(spelling: str, place: int) -> None:
    rest = [literal("grpc-status", "0"), b"\x88", b"\x20", literal("x-own", "tocsin-verdict")]
    block = b"".join((*rest[:place], SPELLINGS[spelling], *rest[place:], SPELLINGS[spelling]))
    split = split_verdicts(block)
    assert split.block == b"".join(rest)
    assert [verdict_text(field) for field in split.verdicts] == ["x", "x"]


@pytest.mark.parametrize("other", OTHERS)
def test_other_fields_are_no_verdicts(other: str) -> None:
    assert split_verdicts(OTHERS[other]) == (OTHERS[other], (), split_verdicts(OTHERS[other]).size)


names = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20).map(str.lower)
values = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60)


@given(st.lists(st.tuples(names, values), max_size=8), st.integers(0, 8), st.booleans())
def test_what_is_left_decodes_to_the_other_fields_within_the_size_told(
    pairs: list[tuple[str, str]], place: int, huffman: bool
) -> None:
    encoder = Encoder()
    encoder.header_table_size = 0
    mixed = [*pairs[:place], (METADATA_KEY, VALUE), *pairs[place:]]
    split = split_verdicts(bytes(encoder.encode(mixed, huffman=huffman)))
    assert [verdict_text(field) for field in split.verdicts] == [VALUE]
    decoded = [tuple(map(str, pair)) for pair in Decoder().decode(split.block)]
    assert decoded == pairs
    assert split.size >= sum(len(name) + len(value) + FIELD_OVERHEAD for name, value in pairs)
    if not huffman:
        assert split.size == sum(len(name) + len(value) + FIELD_OVERHEAD for name, value in pairs)


@given(st.binary(max_size=60))
def test_any_bytes_are_split_or_refused(block: bytes) -> None:
    try:
        split = split_verdicts(block)
    except HeaderError:
        return
    assert len(split.block) <= len(block)


@given(st.binary(max_size=30))
def test_lax_decoding_agrees_with_a_strict_decoder(raw: bytes) -> None:
    try:
        strict = decode_huffman(raw)
    except Exception:
        return
    assert verdict_text((True, raw)) == strict.decode("latin-1")


@pytest.mark.parametrize("room", [10_000, 3_000, 1_000, 400, 230, 150, 40, 0])
def test_a_verdict_takes_the_room_there_is(room: int) -> None:
    rows = 64
    detectors = tuple(f"detector{n}" for n in range(4))
    verdict = Verdict(
        "m", "v", "sha256:" + "a" * 64, [0.25] * rows, ["critical"] * rows, detectors, [0.5] * 4, "critical"
    )
    block = literal("grpc-status", "0")
    size = split_verdicts(block).size
    parts, cut = verdict_field(verdict, size, size + room)
    written = b"".join(parts)
    assert split_verdicts(block + written).block == block
    total = sum(len(n) + len(v) + FIELD_OVERHEAD for n, v in Decoder().decode(block + written))
    assert total <= size + room
    assert cut == ("" if room > 2_000 else "shortened" if room > 200 else "left_out")
    if written:
        read = Verdict.from_metadata(verdict_text(split_verdicts(written).verdicts[0]))
        assert (read.severity, read.rows, read.action) == ("critical", rows, "flag")
