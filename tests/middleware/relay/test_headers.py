"""Claims about header blocks, against the hpack library as the other implementation."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable

import pytest
from hpack import Decoder, Encoder
from hypothesis import given
from hypothesis import strategies as st
from tests.raw_client import field, integer, string

from tocsin.http2.header_literals import block, literal
from tocsin.http2.headers import KEPT_SIZE, STATIC_FIELDS, HeaderError, HeaderFilter, HeaderReader
from tocsin.relay.request_block import RequestFields, every_field

WANTED = (":path", ":status", "content-type", "grpc-encoding", "grpc-status", "traceparent")
names = st.sampled_from(WANTED) | st.from_regex(r"x-[a-z]{1,20}", fullmatch=True)
values = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=300)
fields = st.lists(st.tuples(names, values), max_size=12)


def wanted_of(pairs: list[tuple[str, str]]) -> dict[str, str]:
    return {name: value for name, value in pairs if name in WANTED}


@given(fields, st.booleans())
def test_a_walk_reads_what_an_encoder_without_a_table_wrote(pairs: list[tuple[str, str]], huffman: bool) -> None:
    encoder = Encoder()
    encoder.header_table_size = 0
    assert HeaderReader(HeaderFilter(WANTED)).read(encoder.encode(pairs, huffman=huffman)) == wanted_of(pairs)


@given(st.lists(fields, max_size=5))
def test_a_stateful_reader_follows_an_encoder_with_a_table(blocks: list[list[tuple[str, str]]]) -> None:
    encoder, reader = Encoder(), HeaderReader(HeaderFilter(WANTED), stateful=True)
    for pairs in blocks:
        assert reader.read(encoder.encode(pairs)) == wanted_of(pairs)


@given(fields)
def test_what_is_written_as_literals_is_read_by_another_decoder(pairs: list[tuple[str, str]]) -> None:
    assert [(str(n), str(v)) for n, v in Decoder().decode(block(pairs))] == pairs


@given(fields, names, values)
def test_appending_a_literal_adds_one_field_and_changes_no_state(
    pairs: list[tuple[str, str]], name: str, value: str
) -> None:
    encoder, decoder = Encoder(), Decoder()
    first = encoder.encode(pairs)
    assert list(decoder.decode(first + literal(name, value))) == [*pairs, (name, value)]
    assert list(decoder.decode(encoder.encode(pairs))) == pairs


@pytest.mark.parametrize("status", ["200", "204", "206", "304", "400", "404", "500", "418"])
def test_indexed_statuses_are_known(status: str) -> None:
    encoder = Encoder()
    encoder.header_table_size = 0
    assert HeaderReader(HeaderFilter(WANTED)).read(encoder.encode([(":status", status)])) == {":status": status}


@pytest.mark.parametrize("index", range(1, len(STATIC_FIELDS)))
def test_every_name_of_the_static_table_is_read_however_it_is_encoded(index: int) -> None:
    name, value = STATIC_FIELDS[index]
    wanted, requests = HeaderFilter([name]), RequestFields([name])
    path = field(":path", "/a/b")
    for encoded, says in [
        (integer(index, 7, 0x80), value),
        *((field("", "v", index=index, kind=kind), "v") for kind in (0x00, 0x10, 0x40)),
        *((field(name, "v", kind=kind, huffman=True), "v") for kind in (0x00, 0x10, 0x40)),
        (field(name, "v"), "v"),
    ]:
        assert Decoder().decode(encoded) == [(name, says)]
        assert HeaderReader(wanted).read(encoded) == {name: says}
        if not name.startswith(":"):
            head = requests.head(path + encoded)
            assert (head.fields, head.paths, head.irregular) == ({name: says}, ("/a/b",), "")


@given(fields, st.booleans())
def test_a_walk_reads_a_request_as_a_full_decoder_does(pairs: list[tuple[str, str]], huffman: bool) -> None:
    encoder = Encoder()
    encoder.header_table_size = 0
    block = encoder.encode(pairs, huffman=huffman)
    requests = RequestFields(WANTED)
    walked, decoded = requests.head(block), requests.head_of(every_field(block))
    assert walked.irregular == decoded.irregular
    assert walked.fields == decoded.fields and list(walked.paths) == list(decoded.paths)


def test_fields_that_are_alike_are_judged_once_and_others_by_themselves() -> None:
    requests = RequestFields(["x-session"])
    assert requests.head_of([]).irregular == "no :path"
    first = requests.head_of([(":path", "/a/b"), ("x-session", "me")])
    assert requests.head_of([(":path", "/a/b"), ("x-session", "me")]) is first
    other = requests.head_of([(":path", "/a/b"), ("x-session", "you")])
    assert (first.fields, other.fields) == ({"x-session": "me"}, {"x-session": "you"})
    twice = requests.head_of([(":path", "/a/b"), ("x-session", "me"), ("x-session", "you")])
    assert "x-session" in twice.irregular and not first.irregular


def test_pieces_of_a_cookie_are_one_and_two_keys_are_none() -> None:
    requests = RequestFields(["cookie", "x-session"])
    path = field(":path", "/a/b")
    head = requests.head(path + field("cookie", "a=1") + field("", "b=2", index=32) + field("cookie", "c=3"))
    assert (head.fields, head.irregular) == ({"cookie": "a=1; b=2; c=3"}, "")
    same = requests.head(path + field("x-session", "me") + field("x-session", "me"))
    assert (same.fields, same.irregular) == ({"x-session": "me"}, "")
    both = requests.head(path + field("x-session", "me") + field("x-session", "you"))
    assert both.fields == {"x-session": "you"} and "x-session" in both.irregular


@pytest.mark.parametrize("surplus", [b"\xff", b"\xff\xff\xff\xff"], ids=["padding", "EOS"])
def test_a_string_whose_padding_is_not_as_it_should_be_is_an_error(surplus: bytes) -> None:
    for broken in (
        field("x-group", "v", huffman=True, surplus=surplus),
        b"\x04" + string("/a", huffman=True, surplus=surplus),
    ):
        with pytest.raises(HeaderError):
            HeaderReader(HeaderFilter(["x-group", ":path"])).read(broken)


def test_names_that_callers_make_up_are_not_kept_without_bound() -> None:
    def names() -> RequestFields:
        wanted = RequestFields(WANTED)
        path = field(":path", "/a/b")
        for number in range(50_000):
            wanted.head(path + field(f"x-{number:030}", "v") + field("y", "z" * KEPT_SIZE))
        return wanted

    assert memory_of(names) < 2 << 20


@pytest.mark.parametrize(
    "broken",
    [b"\xff\xff\xff\xff\xff\xff", b"\xc0", b"\x40\x05ab", b"\x00\x03abc\x7f", b"\x80", b"\x00\x7f"],
    ids=["endless integer", "dynamic entry", "cut name", "cut value", "entry 0", "cut length"],
)
def test_a_damaged_block_is_an_error_and_nothing_else(broken: bytes) -> None:
    with pytest.raises(HeaderError):
        HeaderReader(HeaderFilter(WANTED)).read(broken)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_read_or_refused(content: bytes) -> None:
    try:
        values = HeaderReader(HeaderFilter(WANTED)).read(content)
    except HeaderError:
        values = {}
    assert values.keys() <= set(WANTED)


@given(fields)
def test_a_reader_that_has_seen_many_blocks_still_reads_right(pairs: list[tuple[str, str]]) -> None:
    encoder, reader = Encoder(), HeaderReader(HeaderFilter(WANTED))
    encoder.header_table_size = 0
    for number in range(3):
        numbered = [*pairs, ("x-number", str(number))]
        assert reader.read(encoder.encode(numbered)) == wanted_of(pairs)
        assert reader.read(encoder.encode(numbered)) == wanted_of(pairs)


def memory_of(reading: Callable[[], object]) -> int:
    """Bytes that are still allocated after the call, while its result is held."""
    tracemalloc.start()
    try:
        result = reading()
        gc.collect()
        assert result is not None
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("stateful", [False, True])
def test_many_connections_keep_no_more_than_one(stateful: bool) -> None:
    blocks = [
        block([(":path", "/a/b"), ("traceparent", f"{number:055}"), ("x", "y" * 400)]) for number in range(20_000)
    ]

    def connections() -> list[HeaderReader]:
        wanted = HeaderFilter(WANTED)
        readers = [HeaderReader(wanted, stateful=stateful) for _ in range(40)]
        for number, encoded in enumerate(blocks):
            readers[number % 40].read(encoded)
        return readers

    assert memory_of(connections) < 6 << 20


def test_what_a_client_sends_before_it_has_heard_is_not_kept_where_it_is_large() -> None:
    blocks = [block([(":path", "/a/b"), ("x", f"{number:016000}")]) for number in range(300)]

    def connection() -> HeaderReader:
        reader = HeaderReader(HeaderFilter(WANTED), stateful=True)
        for encoded in blocks:
            reader.read(encoded)
        return reader

    assert memory_of(connection) < 1 << 20
