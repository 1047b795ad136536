"""Claims about messages of a known structure: they are read as by parsing them, whatever is in them."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

from tocsin.protocols import layouts, oip
from tocsin.protocols.field_reader import KnownMessage
from tocsin.protocols.protocol import preset
from tocsin.protocols.rows import Family
from tocsin.unscored import Unscored

GENERATE = {
    "vllm": "/vllm.grpc.engine.VllmEngine/Generate", "sglang": "/sglang.grpc.scheduler.SglangScheduler/Generate",
    "trtllm": "/trtllm.TrtllmService/Generate", "mlx": "/mlx.grpc.engine.MlxEngine/Generate",
    "tokenspeed": "/tokenspeed.grpc.scheduler.TokenSpeedScheduler/Generate",
}  # fmt: skip
READ = ("token_logprobs", "top_logprobs")


class Both:
    """A method and a reader of its signals, with structures remembered and without."""

    def __init__(self, protocol: str) -> None:
        shapes = SimpleNamespace(
            rows=lambda name, shape: (1, shape), width=lambda name: 0, misfit=lambda name, width: "",
            family=lambda kinds: Family(None, kinds),
        )  # fmt: skip
        preset.cache_clear()
        method: Any = preset(protocol)[GENERATE[protocol]]
        self.method = method
        self.reader = method.reader({name: method.signals[name] for name in READ}, shapes)
        self.layouts = method._layouts

    def read(self, raw: bytes) -> Any:
        """What is read, or why nothing can be."""
        try:
            opened = self.method.open(raw, None)
            rows, family, raws = self.reader.read([opened], None)
            return opened.is_summary, opened.sequence, self.method.sequence(raw), rows, family.shapes, tuple(raws)
        except Unscored as why:
            return why.reason

    def parsed(self, raw: bytes) -> Any:
        """What is read by parsing, with no layout remembered."""
        remembered, self.method._layouts = self.method._layouts, layouts.Layouts(self.method._response.DESCRIPTOR)
        try:
            return self.read(raw)
        finally:
            self.method._layouts = remembered


def message(kind: Any, random: np.random.Generator, alternatives: int, tokens: int, complete: bool) -> Any:
    """A response of a few tokens, with random numbers in all that it has."""

    def floats(count: int) -> list[float]:
        bits = random.integers(0, 2**32, count, dtype=np.uint32)
        return np.where(random.random(count) < 0.5, bits.view(np.float32), -random.random(count)).tolist()

    response = kind()
    part = response.complete if complete else response.chunk
    ids = random.integers(0, 20_000, tokens).tolist()
    for field, value in (("output_ids", ids), ("token_ids", ids)):
        if field in part.DESCRIPTOR.fields_by_name:
            getattr(part, field).extend(value)
    for field in ("prompt_tokens", "completion_tokens"):
        if field in part.DESCRIPTOR.fields_by_name:
            setattr(part, field, int(random.integers(0, 300)))
    place = next(name for name in ("index", "sequence_index") if name in part.DESCRIPTOR.fields_by_name)
    setattr(part, place, int(random.integers(0, 3)))
    if complete and "finish_reason" in part.DESCRIPTOR.fields_by_name:
        part.finish_reason = str(random.choice(["stop", "length", "Ende – ñ"]))
    fill(part, ids, floats, alternatives, random)
    return response


def fill(part: Any, ids: list[int], floats: Any, alternatives: int, random: np.random.Generator) -> None:
    """Fill in log-probabilities under the names that the engine gives them."""
    names = part.DESCRIPTOR.fields_by_name
    if "output_logprobs" in names:
        held = part.output_logprobs
        held.token_logprobs.extend(floats(len(ids)))
        held.token_ids.extend(ids)
        for _ in ids:
            held.top_logprobs.add(values=floats(alternatives), token_ids=random.integers(0, 50_000, alternatives))
    else:  # trtllm: one message a token
        for logprob, token in zip(floats(len(ids)), ids, strict=True):
            added = part.logprobs.add(token_id=token, logprob=logprob)
            for other, near in zip(floats(alternatives), random.integers(0, 50_000, alternatives), strict=True):
                added.top_logprobs.add(token_id=int(near), logprob=other)


@pytest.mark.long
@pytest.mark.parametrize("protocol", GENERATE)
def test_messages_are_read_as_by_parsing_them(protocol: str) -> None:
    both, random = Both(protocol), np.random.default_rng(1)
    for _ in range(3_000):
        complete = bool(random.random() < 0.1)
        response = message(
            both.method._response, random, int(random.choice([0, 2, 5])), int(random.integers(1, 3)), complete
        )
        raw = response.SerializeToString()
        if random.random() < 0.3:  # a field that nobody here knows, behind all others
            raw += bytes([15 << 3 | 5]) + random.bytes(4)
        assert both.read(raw) == both.parsed(raw)
    assert both.layouts._met > 500


@pytest.mark.parametrize("protocol", GENERATE)
def test_broken_messages_are_read_as_by_parsing_them(protocol: str) -> None:
    both, random = Both(protocol), np.random.default_rng(2)
    complete_messages = [
        message(both.method._response, random, 5, 1, complete).SerializeToString() for complete in (False, True)
    ] * 8
    for raw in complete_messages * 3:
        both.read(raw)
    met = both.layouts._met
    for raw in complete_messages:
        for at in range(len(raw)):
            for to in (raw[at] ^ 0x80, raw[at] ^ 0x01, int(random.integers(0, 256))):
                broken = raw[:at] + bytes([to]) + raw[at + 1 :]
                assert both.read(broken) == both.parsed(broken), (raw.hex(), at, to)
    assert both.layouts._met > met + 1_000


@pytest.mark.long
@pytest.mark.parametrize("protocol", GENERATE)
def test_what_was_asked_for_is_taken_out_of_them_as_by_parsing_them(protocol: str) -> None:
    both, random = Both(protocol), np.random.default_rng(5)
    edit, kind = both.method.edit(both.method.signals, 5), both.method._response
    cut = 0
    for _ in range(2_000):
        complete = bool(random.random() < 0.1)
        response = message(kind, random, int(random.choice([0, 5])), int(random.integers(1, 3)), complete)
        raw = response.SerializeToString()
        if random.random() < 0.3:
            raw += bytes([15 << 3 | 5]) + random.bytes(4)
        both.read(raw)
        layout = both.layouts.of(raw)
        stripped = edit.strip(b"", raw)
        assert stripped == edit._parsed(raw)
        cut += layout is not None and edit._strip_plans[layout] is not None
        for at in random.integers(0, len(raw), 3):  # broken, it may still be a message
            broken = raw[:at] + bytes([raw[at] ^ int(random.choice([0x80, 0x01, 0x10]))]) + raw[at + 1 :]
            try:
                expected = kind.FromString(edit._parsed(broken))
            except Unscored:
                continue
            parsed = kind.FromString(edit.strip(b"", broken))
            assert parsed.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)
    assert cut > 500


def test_a_message_that_is_known_can_be_parsed_all_the_same() -> None:
    both, random = Both("vllm"), np.random.default_rng(3)
    response = message(both.method._response, random, 5, 1, False)
    for _ in range(2):
        opened = both.method.open(response.SerializeToString(), None)
    assert isinstance(opened, KnownMessage) and opened.message == response
    assert opened.message is opened.message  # several signals of many messages are read, and each is parsed once


def test_what_never_comes_again_costs_little_to_have_been_seen() -> None:
    both, random = Both("vllm"), np.random.default_rng(4)
    for count in range(1, 2_000):
        response = both.method._response()
        response.chunk.token_ids.extend(random.integers(0, 2**14, count).tolist())
        both.read(response.SerializeToString())
    assert both.layouts._learnt <= layouts.INITIAL_LAYOUTS + 1
    assert both.layouts._held <= layouts.MAX_MEMORY
    assert both.read(b"") == both.parsed(b"") and both.read(b"\x08\xff") == "undecodable"


ODD = """
name: "odd.proto" syntax: "proto3" message_type {
  name: "Answer"
  field { name: "by" number: 1 label: LABEL_REPEATED type: TYPE_MESSAGE type_name: ".Answer.ByEntry" }
  field { name: "one" number: 2 label: LABEL_OPTIONAL type: TYPE_FLOAT }
  field { name: "two" number: 3 label: LABEL_OPTIONAL type: TYPE_DOUBLE }
  nested_type {
    name: "ByEntry" options { map_entry: true }
    field { name: "key" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
    field { name: "value" number: 2 label: LABEL_OPTIONAL type: TYPE_FLOAT }
  }
}
"""


def test_groups_and_maps_are_left_to_the_parser() -> None:
    pool = DescriptorPool()
    pool.Add(text_format.Parse(ODD, FileDescriptorProto()))
    kind = pool.FindMessageTypeByName("Answer")
    known_layouts = layouts.Layouts(kind)
    mapped = b"\x0a\x08\x0a\x01x\x15" + struct.pack("<f", 1.0)
    group = b"\x1b\x1c"
    for raw in (mapped, group, b"\x10\x01"):  # the last: a float's number, of another kind
        assert known_layouts.learn(raw, False, 0) is None and known_layouts.of(raw) is None
    plain = b"\x15" + struct.pack("<f", 2.0) + b"\x19" + struct.pack("<d", 3.0)
    learnt = known_layouts.learn(plain, False, 0)
    assert learnt is not None and known_layouts.of(b"\x15" + struct.pack("<f", 7.0) + b"\x19" + bytes(8)) is learnt
    assert learnt.spans(lambda raw: [raw[1:5]]) == [[(1, 5)]]
    assert learnt.spans(lambda raw: [np.float32(2.0).tobytes()]) is None  # no float of the message
    assert learnt.spans(lambda raw: [(np.frombuffer(raw[1:5], "<f4") * 2).tobytes()]) is None


@pytest.mark.parametrize("before", [b"", b"\x0a", b"\x08"], ids=["key", "length", "value"])
def test_a_number_that_does_not_end_is_given_up_after_ten_bytes(before: bytes) -> None:
    """Reading on costs the square of its size: minutes, for megabytes, in which a compiled relay does nothing else."""
    endless = before + b"\xff" * 4_000_000
    with pytest.raises(IndexError):
        layouts.fields_with_length(endless, 0, len(endless), 6)
    with pytest.raises(Unscored, match="no ModelInfer"):
        oip.read_response(endless)
    assert layouts.varint(b"\xff" * 9 + b"\x01", 0) == ((1 << 64) - 1, 10)
    with pytest.raises(IndexError):
        layouts.varint(b"\x80" * 10 + b"\x01", 0)
