"""Claims about the scanner: it reads what msgspec reads, to the bit, or leaves the document to it; what ordinary
servers send it reads itself; and neither a document nor a plan leads it outside of its arrays."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from benchmarks.harness.chat import USUAL, completion, stream
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.native_module import native_module

from tocsin.protocols.http import scanner
from tocsin.protocols.http.document import Document
from tocsin.protocols.http.parallel import ParallelAnswers
from tocsin.protocols.http.place import Place
from tocsin.protocols.http.values import as_array
from tocsin.unscored import Unscored

TOKENS, TOPS = "choices[0].logprobs.content[].logprob", "choices[0].logprobs.content[].top_logprobs[].logprob"
PLACES = [
    ("model", "text"), ("usage.total", "number"), (TOKENS, "number"), (TOPS, "number"), ("choices[0].index", "number"),
    ("choices[]", "count"), ("choices[0].delta.content", "presence"), ("choices[].delta.tool_calls", "presence"),
    ("data[*].embedding", "number"), ("output[-1].content[0].logprobs[].logprob", "number"), ("output", "presence"),
    ("output.text", "presence"), ("output[].content", "presence"), ("output.parts[]", "count"),
    ("output.parts[0].x", "number"),
    ("deep[][][].x", "number"), ("deep[-1][1].y", "text"), ("$[*].score", "number"), ("packed", "packed"),
]  # fmt: skip
Documents = tuple[Document, list[Place], Document, list[Place]]


@pytest.fixture(scope="module", autouse=True)
def native(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    scanner.load_scanner.cache_clear()
    with native_module("tocsin.protocols.http._scanner", tmp_path_factory.mktemp("scanner")) as module:
        yield module
    scanner.load_scanner.cache_clear()


def documents(places: list[tuple[str, str]], *, any_case: bool = False) -> Documents:
    """Documents with these places: one that is scanned, and one that is not."""
    both: list[Any] = []
    for load in (scanner.load_scanner, lambda: None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(scanner, "load_scanner", load)
            document = Document("response", any_case=any_case)
            both += [document, [document.place(path, leaf) for path, leaf in places]]
            with suppress(Unscored):
                document.decode(b"{}")  # now it is settled how it decodes
    return tuple(both)  # type: ignore[return-value]


def read(place: Place, leaf: str, document: Any) -> Any:
    if leaf == "count":
        return place.count(document)
    if leaf == "presence":
        return place.is_present(document)
    value = place.follow(document)
    if value is None:
        return None
    if not isinstance(value, list | tuple):
        return repr(value)  # so that a truth value is none, and the sign of zero counts
    try:
        array = as_array(value, "", place.by_rows)
        return None if array is None else (array.shape, array.raw, array.rows)
    except Unscored as why:
        return str(why)


def assert_alike(both: Documents, places: list[tuple[str, str]], content: bytes) -> bool:
    """A document is read by the scanner as by msgspec, or not by the scanner; whether it was."""
    scanned, scanned_places, plain, plain_places = both
    try:
        document = scanned.decode(content)
    except Unscored:
        with pytest.raises(Unscored):
            plain.decode(content)
        return False
    reference = plain.decode(content)
    assert not isinstance(reference, tuple)
    for (path, leaf), place, other in zip(places, scanned_places, plain_places, strict=True):
        assert read(place, leaf, document) == read(other, leaf, reference), path
    return isinstance(document, tuple)


def values(names: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    leaves: st.SearchStrategy[Any] = st.sampled_from(
        [None, True, False, "", "a", 'a"b\\c\n', "ä", 0, -1.5, 3, 1e30, [], {}]
    ) | st.floats(-9, 9)
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
        max_leaves=12,
    )


NAMES = st.sampled_from(["model", "choices", "logprobs", "content", "logprob", "top_logprobs", "x", "Model", "naïve"])


def shaped(path: str, leaf: str) -> st.SearchStrategy[Any]:
    """Values at a path, mostly of the kind that is read there."""
    here: st.SearchStrategy[Any]
    if leaf == "text":
        here = st.sampled_from(["m", "ü", "", None])
    elif leaf == "count":
        path, here = path.removesuffix("[]"), st.lists(st.just({}), max_size=3)
    else:
        here = st.floats(-5, 5) | st.integers(-3, 3) | st.none() | st.lists(st.integers(0, 3), max_size=2)
    for step in reversed(path.split(".")):
        name, *brackets = step.split("[")
        for _ in brackets:
            here = st.lists(here, max_size=3)
        if name != "$":
            here = st.fixed_dictionaries({}, optional={name: here}) | st.fixed_dictionaries({name: here})
    return here


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_documents_are_read_as_msgspec_reads_them(data: st.DataObject) -> None:
    place = data.draw(st.sampled_from(PLACES))
    places = [place, *data.draw(st.lists(st.sampled_from(PLACES), max_size=4))]
    content = data.draw(st.one_of([shaped(*wanted) for wanted in places]) | values(NAMES))
    if isinstance(content, dict) and data.draw(st.booleans()):
        content = {**data.draw(st.dictionaries(NAMES, values(NAMES), max_size=2)), **content}
    separators = data.draw(st.sampled_from([(",", ":"), (" , ", " : "), (",\n\t", ":\r\n ")]))
    written = json.dumps(content, separators=separators, ensure_ascii=data.draw(st.booleans())).encode()
    assert_alike(documents(places, any_case=data.draw(st.booleans())), places, written)


def test_damaged_documents_are_read_as_msgspec_reads_them() -> None:
    """Bytes changed, removed, doubled and cut: of 4,000 many are still documents, and most are none."""
    rng = random.Random(5)
    both = documents(PLACES[:8])
    event = stream([USUAL] * 2)[1][6:].strip()
    undamaged = [completion([USUAL] * 3, [USUAL] * 2), event, completion([-0.25] * 2, model="ü\\n")]
    scanned = 0
    for _ in range(4_000):
        content = bytearray(rng.choice(undamaged))
        for _ in range(rng.randint(1, 3)):
            at, more = rng.randrange(len(content)), rng.randint(1, 12)
            kind = rng.randrange(4)
            if kind == 0:
                content[at] = rng.choice(b'"\\{}[],:0eE+-. \x00\x80tfn')
            elif kind == 1:
                del content[at : at + more]
            elif kind == 2:
                content[at:at] = content[at : at + more * 4]
            else:
                del content[at:]
                content += b"}"
        scanned += assert_alike(both, PLACES[:8], bytes(content))
    assert 200 < scanned < 3_000


@pytest.mark.parametrize("places", [PLACES[:8], [(TOKENS, "number"), ("model", "text")]])
def test_what_servers_send_is_scanned(places: list[tuple[str, str]]) -> None:
    both = documents(places)
    for text in ("a", 'say "logprob": 1', "ä\\", "\u2028 \U0001f600"):
        sent = completion([USUAL] * 40).decode().replace("w1", json.dumps(text)[1:-1])
        assert assert_alike(both, places, sent.encode())
        assert assert_alike(both, places, json.dumps(json.loads(sent), indent=2).encode())
    for event in stream([USUAL] * 3, [USUAL] * 3)[:-1]:
        assert assert_alike(both, places, event[6:].strip())


@pytest.mark.parametrize(
    "content",
    [
        '{"model":"a","model":"a"}', '{"choices":[{"index":0,"index":1}]}', '{"mod\\u0065l":"b"}',
        '{"model":"b","mod\\u0065l":"b"}',
        '{"choices":[{"logprobs":{"content":[{"logprob":-1,"token":"a","logprob":-9}]}}]}',
        '{"choices":[],"choices":[{"index":0}]}', '{"model":"a\\u0000"}', '{"model":3}',
        '{"choices":[{"logprobs":{"content":[{"logprob":-1},{"token":"a"}]}}]}',
        '{"model":' + "[" * 200 + "]" * 200 + "}",
    ],
)  # fmt: skip
def test_what_is_out_of_the_ordinary_is_left_to_msgspec(content: str) -> None:
    places = PLACES[:5]
    both = documents(places)
    assert not assert_alike(both, places, content.encode())


@pytest.mark.parametrize(
    ("content", "is_scanned"),
    [
        ('{"model":"a","Model":"b"}', False), ('{"MODEL":"b"}', False), ('{"model":"a","mo\u0064el2":"b"}', True),
        ('{"model":"a","\u212aey":1}', False), ('{"model":"a","other":{"Model":1}}', True),
    ],
)  # fmt: skip
def test_names_that_differ_in_case_are_left_to_msgspec_where_case_is_ignored(content: str, is_scanned: bool) -> None:
    places = [("model", "text")]
    assert assert_alike(documents(places, any_case=True), places, content.encode()) == is_scanned


NUMBER = st.from_regex(r"-?(0|[1-9][0-9]{0,22})(\.[0-9]{1,24})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)


@settings(max_examples=3_000, deadline=None)
@given(NUMBER | st.floats(allow_nan=False, allow_infinity=False).map(repr))
@example("9007199254740993.0000000001")
@example("-0.30000001192092896")
@example("1797693134862315700000000000000e278")
@example("5e-324")
@example("-0")
@example("9999999999999999999.0e-19")
def test_numbers_are_the_nearest_doubles(written: str) -> None:
    document, (place,), _, _ = documents([("n", "number")])
    wanted = float(written)
    try:
        decoded = document.decode(b'{"n":' + written.encode() + b"}")
    except Unscored:
        assert math.isinf(wanted)
        return
    value = place.follow(decoded)
    assert repr(value) == repr(float(int(written)) if written.lstrip("-").isdecimal() else wanted)


@pytest.mark.parametrize("digits", range(15, 20))
def test_numbers_of_many_digits_are_the_nearest_doubles(digits: int) -> None:
    """As log-probabilities are written: 4,000 of each length, half of them close to the middle between two doubles."""
    rng = random.Random(digits)
    document, (place,), _, _ = documents([("m", "number")])
    for _ in range(4_000):
        middle = (2 * rng.randrange(2**52, 2**53) + 1) / 2 ** rng.randrange(40, 62)
        any_number = f"{rng.randrange(10**digits)}e-{rng.randrange(1, 20)}"
        written = f"{middle:.{digits - 1}e}" if rng.random() < 0.5 else any_number
        assert place.follow(document.decode(f'{{"m":{written}}}'.encode())) == float(written)


@pytest.mark.parametrize(
    ("places", "content"),
    [
        ([("output.text", "presence"), ("output[].content", "presence")], '{"output":[{"content":null}]}'),
        ([("a.b[]", "count"), ("a.b[0].x", "number"), ("a[0].c", "number")], '{"a":[{"c":1},{"c":2}]}'),
        ([("a.b[].x", "number"), ("a[].c", "number")], '{"a":[{"c":1},{"c":2}]}'),
        ([("id", "text"), ("id", "number")], '{"id":7}'),
        ([("choices[0].index", "number")], '{"choices":[{"index":true}]}'),
        ([("x[]", "number")], '{"x":[-0,-0.0,true]}'),
        ([("x", "number")], '{"x":-0}'),
    ],
)
def test_a_place_that_may_be_of_two_kinds_is_read_as_msgspec_reads_it(places: Any, content: str) -> None:
    assert_alike(documents(places), places, content.encode())


def test_a_truth_value_is_no_number_of_an_answer() -> None:
    document = Document("response")
    answers = ParallelAnswers(document, "response.choices[].index")
    numbers = [answers.number_of(document.decode(b'{"choices":[{"index":%b}]}' % value)) for value in (b"true", b"2")]
    assert numbers == [0, 2]


def test_of_byte_order_marks_one_is_skipped() -> None:
    """Each one more would be a copy of the rest, and a frame of the stack."""
    for document, (place,) in (documents([("n", "number")])[:2], documents([("n", "number")])[2:]):
        assert place.follow(document.decode("\ufeff".encode() + b'{"n":1}')) == 1
        with pytest.raises(Unscored):
            document.decode("\ufeff".encode() * 2_000 + b'{"n":1}')


def test_a_place_that_is_added_later_has_no_value_in_what_was_decoded_before() -> None:
    document, (model,), _, _ = documents([("model", "text")])
    decoded = document.decode(b'{"model":"a","usage":1}')
    usage = document.place("usage", "number")
    assert (model.follow(decoded), usage.follow(decoded)) == ("a", None)
    assert usage.follow(document.decode(b'{"model":"a","usage":1}')) == 1


LEAF = ((), -1, 0, (0,), (0,))


@pytest.mark.parametrize(
    ("nodes", "slots"),
    [
        ((), ()), ((LEAF,), ()), ((LEAF,), ((9, ()),)), ((LEAF,), ((0, (1,)),)), ((LEAF,), ((0, (-3,)),)),
        ((((), 0, 0, (), ()),), ()), ((((), 5, 0, (), ()),), ()), (((((b"a", 0),), -1, 0, (), ()),), ()),
        (((((b"a", 1), (b"b", 1)), -1, 0, (), ()), LEAF), ((0, ()),)), ((((), -1, 0, (), ()), LEAF), ((0, ()),)),
        ((((), 1, 0, (), (0,)), LEAF), ((0, ()),)), (((), (), ()), ()), ((LEAF,), ((0, (-1,) * 5),)),
        ((*[((), at + 1, 1, (), ()) for at in range(6)], ((), -1, 1, (), ())), ()),
        ((LEAF,), ((1, (-1,)),)), (((((b"a", 2**31),), -1, 0, (), ()),), ()), ((LEAF,) * 2000, ((0, ()),)),
        ((LEAF,), ((0, ()),) * 40), (((((b"a",),), -1, 0, (), ()),), ()),
    ],
)  # fmt: skip
def test_plans_that_would_lead_outside_are_refused(native: Any, nodes: Any, slots: Any) -> None:
    with pytest.raises((ValueError, TypeError, OverflowError)):
        native.Scanner(nodes, slots, False)
