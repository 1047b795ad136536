"""Claims about reading Open Inference Protocol messages, against Triton's own definitions of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as triton

from tocsin.protocols import oip
from tocsin.protocols.datatypes import item_size, to_float32
from tocsin.protocols.oip_layouts import TensorMessage
from tocsin.unscored import Unscored

RAW = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64,
    "FP16": np.float16, "FP32": np.float32, "FP64": np.float64,
}  # fmt: skip
TYPED = {
    "BOOL": "bool_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents",
}  # fmt: skip


def values(message: TensorMessage, name: str) -> Any:
    tensor = message.layout.tensor(name)
    item_size(tensor.datatype, name)
    return to_float32(message.raw[tensor.position], tensor.datatype).reshape(tensor.shape)


def triton_response(datatype: str, array: Any, raw: bool) -> bytes:
    message = triton.ModelInferResponse(model_name="m", model_version="3", id="x")
    message.parameters["p"].int64_param = 4
    message.outputs.add(name="before", datatype="INT8", shape=[1])
    tensor = message.outputs.add(name="out", datatype=datatype, shape=array.shape)
    if raw:
        message.raw_output_contents.extend([b"\1", array.tobytes()])
    else:
        message.outputs[0].contents.int_contents.append(1)
        getattr(tensor.contents, TYPED[datatype]).extend(array.ravel().tolist())
    return bytes(message.SerializeToString())


@pytest.mark.parametrize(
    ("datatype", "raw"), [(name, True) for name in RAW] + [(name, False) for name in TYPED], ids=str
)
def test_every_numeric_datatype_is_read(datatype: str, raw: bool) -> None:
    array: Any = (np.arange(12).reshape(3, 4) % 5).astype(RAW[datatype])
    read = oip.read_response(triton_response(datatype, array, raw))
    assert (read.model, read.version) == ("m", "3")
    assert values(read, "out").tolist() == array.astype(np.float32).tolist()


def test_bfloat16_is_the_upper_half_of_float32() -> None:
    exact = np.array([[1.0, -2.5, 0.15625, 3e38]], np.float32)
    halves = (exact.view(np.uint32) >> 16).astype(np.uint16)
    read = oip.read_response(triton_response("BF16", halves, raw=True))
    expected = (halves.astype(np.uint32) << 16).view(np.float32)
    assert values(read, "out").tolist() == expected.tolist()
    assert values(read, "out")[0, :3].tolist() == exact[0, :3].tolist()


def test_requests_are_read_like_responses() -> None:
    for raw in (True, False):
        message = triton.ModelInferRequest(model_name="m", model_version="")
        tensor = message.inputs.add(name="in", datatype="FP32", shape=[2, 2])
        if raw:
            message.raw_input_contents.append(np.arange(4, dtype=np.float32).tobytes())
        else:
            tensor.contents.fp32_contents.extend([0, 1, 2, 3])
        assert values(oip.read_request(message.SerializeToString()), "in").tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize("raw", [True, False])
def test_bytes_tensors_are_kept_apart_from_numbers(raw: bool) -> None:
    message = triton.ModelInferResponse(model_name="m")
    tensor = message.outputs.add(name="text", datatype="BYTES", shape=[2])
    if raw:
        message.raw_output_contents.append(b"\2\0\0\0hi\0\0\0\0")
    else:
        tensor.contents.bytes_contents.extend([b"hi", b""])
    read = oip.read_response(message.SerializeToString())
    assert bytes(read.raw[0]) == b"\2\0\0\0hi\0\0\0\0"
    with pytest.raises(Unscored) as caught:
        values(read, "text")
    assert caught.value.reason == "dtype"


def test_a_missing_tensor_is_told_with_what_there_is() -> None:
    read = oip.read_response(triton_response("FP32", np.zeros((1, 4), np.float32), True))
    with pytest.raises(Unscored) as caught:
        read.layout.tensor("probs")
    assert caught.value.reason == "missing_signal"
    assert "'out' FP32 [1, 4]" in str(caught.value)


def test_equal_descriptions_share_a_layout_and_different_ones_do_not() -> None:
    first = oip.read_response(triton_response("FP32", np.zeros((1, 4), np.float32), True))
    again = oip.read_response(triton_response("FP32", np.ones((1, 4), np.float32), True))
    other = oip.read_response(triton_response("FP32", np.zeros((2, 4), np.float32), True))
    assert first.layout is again.layout
    assert first.layout is not other.layout


@given(st.binary(max_size=300))
@example(b"2\x00")
def test_arbitrary_bytes_are_read_or_told_as_what_they_are(content: bytes) -> None:
    for read in (oip.read_response, oip.read_request):
        try:
            read(content)
        except Unscored as why:
            assert why.reason == "undecodable" or (why.reason == "shape" and "raw contents of" in str(why))


def test_contents_without_a_tensor_are_of_another_shape() -> None:
    with pytest.raises(Unscored, match="1 raw contents of 0 tensors") as caught:
        oip.read_response(oip.Response(raw_output_contents=[b""]).SerializeToString())
    assert caught.value.reason == "shape"


def test_the_shipped_definitions_agree_with_tritons_on_the_wire() -> None:
    def numbers(message: Any) -> dict[str, tuple[int, int]]:
        return {field.name: (field.number, field.type) for field in message.DESCRIPTOR.fields}

    for ours, theirs in ((oip.Request, triton.ModelInferRequest), (oip.Response, triton.ModelInferResponse)):
        assert numbers(ours).items() <= numbers(theirs).items()
        for name in ("inputs", "outputs"):
            if name in numbers(ours):
                mine = ours.DESCRIPTOR.fields_by_name[name].message_type
                their = theirs.DESCRIPTOR.fields_by_name[name].message_type
                assert {f.name: f.number for f in mine.fields} == {f.name: f.number for f in their.fields}


LARGE = 70_000  # bytes of a tensor, with which a message's contents are left where they are


def large(kind: Any, field: str) -> bytes:
    message = kind(model_name="m", id="x")
    for name, size in (("out", 12), ("picture", LARGE), ("last", 4)):
        getattr(message, field.partition("_")[2].partition("_")[0] + "s").add(name=name, datatype="UINT8", shape=[size])
        getattr(message, field).append(bytes([7]) * size)
    return bytes(message.SerializeToString())


@pytest.mark.parametrize(
    ("kind", "field", "read"),
    [(triton.ModelInferResponse, "raw_output_contents", oip.read_response),
     (triton.ModelInferRequest, "raw_input_contents", oip.read_request)],
)  # fmt: skip
@given(
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4),
    inserted=st.binary(max_size=12), at=st.integers(0, 400), end=st.integers(0, 30),
)  # fmt: skip
@example(changes=[], inserted=b"", at=0, end=0)
@example(changes=[], inserted=b"\x0a\x01n", at=0, end=0)  # the model's name twice
@example(
    changes=[], inserted=b"\x32\x82\x80\x00ab\x3a\x82\x80\x00ab", at=0, end=0
)  # a length in more bytes than it takes
@example(changes=[], inserted=b"\xb2\x00\x02ab\xba\x00\x02ab", at=0, end=0)  # and a tag
@example(changes=[], inserted=b"\x32" + b"\x82" + b"\x80" * 9 + b"\x00ab", at=0, end=0)  # a length that is none
def test_large_messages_are_what_protobuf_says(
    kind: Any, field: str, read: Any, changes: list[tuple[int, int]], inserted: bytes, at: int, end: int
) -> None:
    content = bytearray(large(kind, field))
    where = [
        *range(len(content) - LARGE - 200),
        *range(len(content) - 200, len(content)),
    ]  # not inside of the large one
    for place, value in changes:
        content[where[place % len(where)]] = value
    place = where[at % len(where)]
    content[place:place] = inserted
    message = bytes(content[: len(content) - end])
    try:
        parsed = read(message)
    except Unscored as why:
        assert why.reason in ("undecodable", "shape", "dtype")
        assert changes or inserted or end
        return
    expected = kind.FromString(message)
    assert parsed.model == expected.model_name
    assert list(parsed.raw) == list(getattr(expected, field)) or not getattr(expected, field)
    assert [parsed.raw[place] for place in range(len(parsed.raw))] == parsed.raw[:]


def test_of_a_large_message_with_very_many_fields_all_is_parsed() -> None:
    message = triton.ModelInferResponse(model_name="m")
    for number in range(300):
        message.outputs.add(name=f"t{number}", datatype="UINT8", shape=[300])
        message.raw_output_contents.append(bytes([number % 256]) * 300)
    parsed = oip.read_response(message.SerializeToString())
    assert list(parsed.raw) == list(message.raw_output_contents)
