"""Claim: what is read natively of a message is what protobuf reads; of whatever it would refuse, or write otherwise,
nothing is read natively.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.native_module import native_module

from tocsin.protocols.native_envelope import FieldKind, field_kinds
from tocsin.protocols.oip import ResponseEnvelope

READ = ("model_name", "model_version", "outputs", "raw_output_contents")
KINDS = field_kinds(ResponseEnvelope, READ)
TEXTS = st.text(st.characters(max_codepoint=0x2FF, exclude_categories=["Cs"]), max_size=200)
CONTENTS = st.lists(st.binary(max_size=300), max_size=5)
MESSAGES = st.builds(
    lambda **fields: ResponseEnvelope(**fields).SerializeToString(),
    model_name=TEXTS, model_version=TEXTS, id=TEXTS,
    parameters=CONTENTS, outputs=CONTENTS, raw_output_contents=CONTENTS,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def envelope(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The compiled module, built for these tests where Tocsin runs from its source."""
    with native_module("tocsin.protocols._envelope", tmp_path_factory.mktemp("envelope")) as module:
        yield module


def by_protobuf(content: bytes) -> tuple[Any, ...] | None:
    """What protobuf reads; None where it refuses the message, or would write it otherwise in as many bytes."""
    message = ResponseEnvelope.FromString(content)
    assert message.ByteSize() == len(content), "a field is there twice, or written longer than it is"
    return tuple(
        value if isinstance(value, str) else list(value) for value in (getattr(message, name) for name in READ)
    )


@settings(max_examples=300)
@given(MESSAGES)
def test_a_message_is_read_as_protobuf_reads_it(envelope: Any, content: bytes) -> None:
    read, expected = envelope.read(content, KINDS), by_protobuf(content)
    message = ResponseEnvelope.FromString(content)
    if (message.model_name + message.model_version + message.id).isascii():
        assert read == expected
    else:
        assert read is None


@settings(max_examples=2000)
@given(MESSAGES, st.data())
def test_of_a_damaged_message_only_what_protobuf_reads_is_read(
    envelope: Any, content: bytes, data: st.DataObject
) -> None:
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged)))
        damaged[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    read = envelope.read(bytes(damaged), KINDS)
    if read is not None:
        assert read == by_protobuf(bytes(damaged))


@settings(max_examples=2000)
@given(st.binary(max_size=60))
@example(b"\x0a\x81\x00a")  # a length in more bytes than it takes
@example(b"\x0a\x01a\x0a\x01b")  # a name twice
@example(b"\x0a\x00")  # a name that is empty
@example(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")
@example(b"\x0a\x80\x80\x80\x80\x10")
@example(b"\x3a\x01a")  # a field that nobody knows
@example(b"\x82\x01\x01a")
@example(b"\xff\x01")  # a number beyond the kinds
@example(b"\x0b\x0c")
@example(b"\x1a\x01\xff")  # an id that is no UTF-8
def test_of_any_bytes_only_what_protobuf_reads_is_read(envelope: Any, content: bytes) -> None:
    read = envelope.read(content, KINDS)
    if read is not None:
        assert read == by_protobuf(content)


def test_a_message_of_very_many_values_is_left_to_protobuf(envelope: Any) -> None:
    content = ResponseEnvelope(raw_output_contents=[b"x"] * 1024).SerializeToString()
    assert envelope.read(content, KINDS)[-1] == [b"x"] * 1024
    assert envelope.read(content + b"\x32\x01x", KINDS) is None


def test_fields_have_kinds_by_their_numbers(envelope: Any) -> None:
    kinds = [FieldKind.UNKNOWN, FieldKind.TEXT, FieldKind.TEXT, FieldKind.TEXT_UNREAD, FieldKind.MANY_UNREAD]
    assert bytes([*kinds, FieldKind.MANY, FieldKind.MANY, *[FieldKind.UNKNOWN] * 9]) == KINDS
    with pytest.raises(ValueError, match="16 kinds"):
        envelope.read(b"", KINDS[:-1])
