"""The Open Inference Protocol v2: tensors of ModelInfer requests and responses.

A model's messages differ in their raw contents and seldom in anything else, so tensors' descriptions are read as
bytes first and looked up among the layouts seen before; only a new one is parsed in full.

What implementations of the protocol read differently is not read at all (`undecodable`): a field that is there twice,
two tensors of one name, a tensor's values beside raw contents or in several types.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from google.protobuf.message import DecodeError

from tocsin.protocols.datatypes import DTYPES
from tocsin.protocols.descriptors import message_class
from tocsin.protocols.method import AnsweredRequest
from tocsin.protocols.native_envelope import field_kinds, load_envelope
from tocsin.protocols.oip_contents import contents_apart
from tocsin.protocols.oip_layouts import SHARED_MEMORY_PARAMETER, TensorMessage, TensorSingle, layouts, require_single
from tocsin.unscored import Unscored

Request = message_class("open_inference", "inference.ModelInferRequest")
Response = message_class("open_inference", "inference.ModelInferResponse")
RequestEnvelope = message_class("open_inference", "inference.ModelInferRequestEnvelope")
ResponseEnvelope = message_class("open_inference", "inference.ModelInferResponseEnvelope")
StreamResponse = message_class("open_inference", "inference.ModelStreamInferResponse")
StreamEnvelope = message_class("open_inference", "inference.ModelStreamInferResponseEnvelope")
Single = message_class("open_inference", "inference.ModelInferSingle")
StreamSingle = message_class("open_inference", "inference.ModelStreamInferSingle")

FINAL_PARAMETER: Final = "triton_final_response"  # the parameter by which Triton tells a request's last response

_INFER_RESPONSE_TAG: Final = bytes([StreamResponse.DESCRIPTOR.fields_by_name["infer_response"].number << 3 | 2])
_RAW_INPUT_CONTENTS: Final = Request.DESCRIPTOR.fields_by_name["raw_input_contents"].number
_RAW_OUTPUT_CONTENTS: Final = Response.DESCRIPTOR.fields_by_name["raw_output_contents"].number

CHEAP_MESSAGE: Final = 65_536  # bytes of a message that is cheaply written again, or parsed with all of its contents

_TYPED: Final = {
    "BOOL": "bool_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip


_known_layouts = layouts.layouts
_read_natively = load_envelope()
_RESPONSE_KINDS: Final = field_kinds(
    ResponseEnvelope, ("model_name", "model_version", "outputs", "raw_output_contents")
)


def _usual(content: bytes, raw: Any) -> TensorMessage | None:
    """A ModelInferResponse of the usual form, whose layout is known; None where protobuf has to read it. `raw`: its raw
    contents, where they have been taken out.
    """
    if _read_natively is None or len(content) > CHEAP_MESSAGE:
        return None
    fields = _read_natively(content, _RESPONSE_KINDS)
    if fields is None:
        return None
    model, version, outputs, contents = fields
    raw = raw or contents
    layout = _known_layouts.get(tuple(outputs)) if raw else None
    return TensorMessage(model, version, layout, raw) if layout is not None and len(raw) == layout.contents else None


def read_response(content: bytes) -> TensorMessage:
    """A ModelInferResponse. Raises Unscored `undecodable`, or `shape` where there are more or fewer contents than
    tensors.
    """
    raw: Any = ()
    if len(content) > CHEAP_MESSAGE:
        content, raw = contents_apart(content, _RAW_OUTPUT_CONTENTS)
    usual = _usual(content, raw)
    if usual is not None:
        return usual
    try:
        envelope = ResponseEnvelope.FromString(content)
    except DecodeError as error:
        raise _undecodable("response", error) from None
    size = len(content)
    if size > CHEAP_MESSAGE or envelope.ByteSize() != size:
        require_single(Single, content, "the response")
    if not raw:
        raw = envelope.raw_output_contents
    layout = _known_layouts.get(tuple(envelope.outputs[:])) if raw else None  # a slice is quicker than to iterate
    if layout is not None and len(raw) == layout.contents:  # the usual case
        return TensorMessage(envelope.model_name, envelope.model_version, layout, raw)
    return _response(envelope, content, raw)


def read_stream_response(content: bytes) -> TensorMessage:
    """The ModelInferResponse in a ModelStreamInferResponse. It is empty where it is an error, or Triton's word that
    a request has no more responses. Raises Unscored `undecodable`, or `shape` as a response does.
    """
    error, content = _streamed(content)
    usual = _usual(content, ())
    if usual is not None:
        return usual
    envelope = _envelope(ResponseEnvelope, content, "response")
    raw = envelope.raw_output_contents
    layout = _known_layouts.get(tuple(envelope.outputs[:])) if raw else None
    if layout is not None and len(raw) == layout.contents:  # the usual case
        return TensorMessage(envelope.model_name, envelope.model_version, layout, raw)
    message = _response(envelope, content, raw)
    if not message.layout.tensors and not message.raw and (error or _is_final(envelope, content)):
        message.empty = True
    return message


def answer_of(content: bytes) -> AnsweredRequest:
    """The request that a ModelStreamInferResponse answers. Raises Unscored `undecodable`."""
    error, content = _streamed(content)
    envelope = _envelope(ResponseEnvelope, content, "response")
    return AnsweredRequest(envelope.id, bool(error) or _is_final(envelope, content))


def request_id(content: bytes) -> str:
    """The id of a ModelInferRequest, "" where it has none. Raises Unscored `undecodable`."""
    return str(_envelope(RequestEnvelope, content, "request").id)


def read_request(content: bytes) -> TensorMessage:
    """A ModelInferRequest. Raises Unscored `undecodable`, or `shape` as a response does."""
    raw: Any = ()
    if len(content) > CHEAP_MESSAGE:
        content, raw = contents_apart(content, _RAW_INPUT_CONTENTS)
    envelope = _envelope(RequestEnvelope, content, "request")
    raw = raw or envelope.raw_input_contents
    if not raw:
        return _read_typed(Request, "request", "inputs", content, envelope.inputs)
    return _read_raw(envelope, Request, "request", "inputs", content, (b"", *envelope.inputs[:]), raw)


def parse(kind: Any, content: bytes, side: str) -> Any:
    """Parse a complete message. Raises Unscored `undecodable`."""
    try:
        return kind.FromString(content)
    except DecodeError as error:
        raise _undecodable(side, error) from None


def _undecodable(side: str, error: DecodeError) -> Unscored:
    return Unscored("undecodable", f"the {side} is no ModelInfer message ({error})")


def _response(envelope: Any, content: bytes, raw: Any = ()) -> TensorMessage:
    raw = raw or envelope.raw_output_contents
    if not raw:
        return _read_typed(Response, "response", "outputs", content, envelope.outputs)
    return _read_raw(envelope, Response, "response", "outputs", content, tuple(envelope.outputs[:]), raw)


def _envelope(kind: Any, content: bytes, side: str, single: Any = Single) -> Any:
    """A message with what is nested left as bytes. Raises Unscored `undecodable`, also where a field is there twice.

    A message that is as long when it is written again has nothing twice: of such fields, one is lost.
    """
    try:
        envelope = kind.FromString(content)
    except DecodeError as error:
        raise _undecodable(side, error) from None
    if len(content) > CHEAP_MESSAGE or envelope.ByteSize() != len(content):
        require_single(single, content, f"the {side}")
    return envelope


def _streamed(content: bytes) -> tuple[str, bytes]:
    """The error and the response in a ModelStreamInferResponse. Raises Unscored `undecodable`."""
    if content[:1] == _INFER_RESPONSE_TAG:
        start = _start_of_only_field(content)
        if start:  # the usual case: nothing else is in it, nor twice
            return "", content[start:]
    envelope = _envelope(StreamEnvelope, content, "response", StreamSingle)
    return envelope.error_message, envelope.infer_response


def _start_of_only_field(content: bytes) -> int:
    """Where the value of the first field begins, if it is one with a length of two bytes or three that ends where the
    message does; 0 otherwise.
    """
    end = len(content)
    if end < 4 or content[1] < 128:
        return 0
    if content[2] < 128:
        return 3 if (content[1] & 127 | content[2] << 7) == end - 3 else 0
    size = content[1] & 127 | (content[2] & 127) << 7 | content[3] << 14
    return 4 if content[3] < 128 and size == end - 4 else 0


def _is_final(envelope: Any, content: bytes) -> bool:
    """Whether Triton marks a response as its request's last."""
    if not any(FINAL_PARAMETER.encode() in entry for entry in envelope.parameters):
        return False
    parameters = parse(Response, content, "response").parameters
    return FINAL_PARAMETER in parameters and bool(parameters[FINAL_PARAMETER].bool_param)


def _read_raw(
    envelope: Any, kind: Any, side: str, field: str, content: bytes, key: tuple[bytes, ...], raw: Any
) -> TensorMessage:
    """A message whose values are raw contents."""
    layout = layouts.layouts.get(key)
    if layout is None:
        tensors = getattr(parse(kind, content, side), field)
        for tensor in tensors:
            if tensor.contents.ListFields():
                raise Unscored("undecodable", f"the {side}'s tensor '{tensor.name}' has values beside raw contents")
        layout = layouts.learn(key, sum(map(len, key)), side, tensors, getattr(envelope, field))
    if len(raw) != layout.contents:
        raise Unscored("shape", f"the {side} has {len(raw)} raw contents of {layout.contents} tensors")
    return TensorMessage(envelope.model_name, envelope.model_version, layout, raw)


def _read_typed(kind: Any, side: str, field: str, content: bytes, described: Any) -> TensorMessage:
    """A message whose values are in the tensors themselves, converted to raw contents."""
    message = parse(kind, content, side)
    tensors = getattr(message, field)
    raw: list[bytes] = []
    for tensor in tensors:
        if len(tensor.contents.ListFields()) > 1:
            raise Unscored("undecodable", f"the {side}'s tensor '{tensor.name}' has values of several types")
        contents = _TYPED.get(tensor.datatype)
        values = getattr(tensor.contents, contents) if contents else ()
        if tensor.datatype == "BYTES":
            raw.append(b"".join([len(v).to_bytes(4, "little") + v for v in values]))
        else:
            raw.append(np.asarray(values, DTYPES.get(tensor.datatype, np.dtype("<f4"))).tobytes())
    key = (side, *((t.name, t.datatype, tuple(t.shape), SHARED_MEMORY_PARAMETER in t.parameters) for t in tensors))
    layout = layouts.layouts.get(key)
    if layout is None:
        size = sum(len(t.name) + len(t.datatype) + 8 * len(t.shape) for t in tensors)
        layout = layouts.learn(key, size, side, tensors, described)
    else:
        for described_tensor in described:
            require_single(TensorSingle, described_tensor, f"a tensor of the {side}")
    if layout.contents != len(raw):  # those in shared memory have none
        raw = [values for values, t in zip(raw, tensors, strict=True) if SHARED_MEMORY_PARAMETER not in t.parameters]
    return TensorMessage(message.model_name, message.model_version, layout, raw)
