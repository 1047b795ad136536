"""The Open Inference Protocol v2: tensors of ModelInfer requests and responses.

A model's messages differ in their raw contents and seldom in anything else, so tensors' descriptions are read as
bytes first and looked up among the layouts seen before; only a new one is parsed in full.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError

from tocsin.protocols.datatypes import DTYPES
from tocsin.protocols.descriptors import message_class
from tocsin.protocols.rows import KEPT_LAYOUTS
from tocsin.unscored import Unscored

Request = message_class("open_inference", "inference.ModelInferRequest")
Response = message_class("open_inference", "inference.ModelInferResponse")
RequestEnvelope = message_class("open_inference", "inference.ModelInferRequestEnvelope")
ResponseEnvelope = message_class("open_inference", "inference.ModelInferResponseEnvelope")
StreamResponse = message_class("open_inference", "inference.ModelStreamInferResponse")
StreamEnvelope = message_class("open_inference", "inference.ModelStreamInferResponseEnvelope")

_TYPED = {
    "BOOL": "bool_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip


class Tensor(NamedTuple):
    """How one tensor of a message is described: its place among the raw contents, type and shape."""

    position: int
    datatype: str
    shape: tuple[int, ...]


class Layout:
    """The tensors of a message by name. Messages with equal descriptions share one layout object."""

    __slots__ = ("side", "tensors")

    def __init__(self, side: str, tensors: dict[str, Tensor]) -> None:
        self.side = side
        self.tensors = tensors

    def tensor(self, name: str) -> Tensor:
        """The tensor of that name. Raises Unscored `missing_signal`, telling what there is instead."""
        try:
            return self.tensors[name]
        except KeyError:
            told = ", ".join(f"'{n}' {t.datatype} {list(t.shape)}" for n, t in self.tensors.items()) or "none"
            raise Unscored("missing_signal", f"the {self.side} has no tensor named '{name}' (it has: {told})") from None


class Message(NamedTuple):
    """One ModelInfer message: whose it is, how its tensors are laid out, and the raw contents in that order."""

    model: str
    version: str
    layout: Layout
    raw: Any  # a sequence of bytes
    sums_up: bool = False
    sequence: int = 0


_layouts: dict[tuple[object, ...], Layout] = {}


def read_response(content: bytes) -> Message:
    """A ModelInferResponse. Raises Unscored `undecodable`."""
    try:
        envelope = ResponseEnvelope.FromString(content)
    except DecodeError as error:
        raise Unscored("undecodable", f"the response is no ModelInferResponse ({error})") from None
    raw = envelope.raw_output_contents
    if not raw:
        return _read_typed(Response, "response", "outputs", content)
    key = tuple(envelope.outputs)
    layout = _layouts.get(key)
    if layout is None:
        layout = _learn(key, "response", Response.FromString(content).outputs)
    return Message(envelope.model_name, envelope.model_version, layout, raw)


def read_stream_response(content: bytes) -> Message:
    """The ModelInferResponse in a ModelStreamInferResponse. Raises Unscored: `undecodable`, or `no_response` where it
    is an error.
    """
    try:
        envelope = StreamEnvelope.FromString(content)
    except DecodeError as error:
        raise Unscored("undecodable", f"the response is no ModelStreamInferResponse ({error})") from None
    if envelope.error_message and not envelope.infer_response:
        raise Unscored("no_response", "the message tells an error instead of an inference")
    return read_response(envelope.infer_response)


def parse(kind: Any, content: bytes, side: str) -> Any:
    """A whole message of a kind. Raises Unscored `undecodable`."""
    try:
        return kind.FromString(content)
    except DecodeError as error:
        raise Unscored("undecodable", f"the {side} is no ModelInfer message ({error})") from None


def read_request(content: bytes) -> Message:
    """A ModelInferRequest. Raises Unscored `undecodable`."""
    try:
        envelope = RequestEnvelope.FromString(content)
    except DecodeError as error:
        raise Unscored("undecodable", f"the request is no ModelInferRequest ({error})") from None
    raw = envelope.raw_input_contents
    if not raw:
        return _read_typed(Request, "request", "inputs", content)
    key = (b"", *envelope.inputs)
    layout = _layouts.get(key)
    if layout is None:
        layout = _learn(key, "request", Request.FromString(content).inputs)
    return Message(envelope.model_name, envelope.model_version, layout, raw)


def _learn(key: tuple[object, ...], side: str, tensors: Any) -> Layout:
    if len(_layouts) >= KEPT_LAYOUTS:
        _layouts.clear()
    described = {t.name: Tensor(i, t.datatype, tuple(t.shape)) for i, t in enumerate(tensors)}
    layout = _layouts[key] = Layout(side, described)
    return layout


def _read_typed(kind: Any, side: str, field: str, content: bytes) -> Message:
    """A message whose values ride in the tensors themselves: the same, with the values put into raw form."""
    message = parse(kind, content, side)
    tensors = getattr(message, field)
    raw: list[bytes] = []
    for tensor in tensors:
        contents = _TYPED.get(tensor.datatype)
        values = getattr(tensor.contents, contents) if contents else ()
        if tensor.datatype == "BYTES":
            raw.append(b"".join(len(v).to_bytes(4, "little") + v for v in values))
        else:
            raw.append(np.asarray(values, DTYPES.get(tensor.datatype, np.dtype("<f4"))).tobytes())
    key = (side, *((t.name, t.datatype, tuple(t.shape)) for t in tensors))
    layout = _layouts.get(key) or _learn(key, side, tensors)
    return Message(message.model_name, message.model_version, layout, raw)
