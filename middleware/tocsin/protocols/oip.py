"""The Open Inference Protocol v2: tensors of ModelInfer requests and responses.

A model's messages differ in their raw contents and seldom in anything else, so tensors' descriptions are read as
bytes first and looked up among the layouts seen before; only a new one is parsed in full.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from tocsin.protocols.descriptors import message_class
from tocsin.unscored import Unscored

METHODS = frozenset({"/inference.GRPCInferenceService/ModelInfer"})

Request = message_class("open_inference", "inference.ModelInferRequest")
Response = message_class("open_inference", "inference.ModelInferResponse")
RequestEnvelope = message_class("open_inference", "inference.ModelInferRequestEnvelope")
ResponseEnvelope = message_class("open_inference", "inference.ModelInferResponseEnvelope")

KEPT_LAYOUTS = 4096

_DTYPES = {
    name: np.dtype(code)
    for name, code in {
        "BOOL": "?", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8",
        "INT8": "i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8",
        "FP16": "<f2", "FP32": "<f4", "FP64": "<f8", "BF16": "<u2",
    }.items()
}  # fmt: skip
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
    try:
        message = kind.FromString(content)
    except DecodeError as error:
        raise Unscored("undecodable", f"the {side} is no ModelInfer message ({error})") from None
    tensors = getattr(message, field)
    raw: list[bytes] = []
    for tensor in tensors:
        contents = _TYPED.get(tensor.datatype)
        values = getattr(tensor.contents, contents) if contents else ()
        if tensor.datatype == "BYTES":
            raw.append(b"".join(len(v).to_bytes(4, "little") + v for v in values))
        else:
            raw.append(np.asarray(values, _DTYPES.get(tensor.datatype, np.dtype("<f4"))).tobytes())
    key = (side, *((t.name, t.datatype, tuple(t.shape)) for t in tensors))
    layout = _layouts.get(key) or _learn(key, side, tensors)
    return Message(message.model_name, message.model_version, layout, raw)


def item_size(tensor: Tensor, name: str) -> int:
    """Bytes a value of a numeric tensor. Raises Unscored `dtype` for BYTES and unknown types."""
    dtype = _DTYPES.get(tensor.datatype)
    if dtype is None:
        told = tensor.datatype or "of no type"
        raise Unscored("dtype", f"tensor '{name}' is {told}, but a signal must be numeric")
    return dtype.itemsize


def to_float32(content: bytes, datatype: str) -> NDArray[np.float32]:
    """Raw contents of a numeric datatype as float32, one-dimensional."""
    values = np.frombuffer(content, _DTYPES[datatype])
    if datatype == "BF16":  # the upper half of a float32
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32, copy=False)
