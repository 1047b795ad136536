"""An ONNX graph's nodes and constants, read without the package onnx, which serving does not install."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from tocsin_detectors.small_graphs.unsupported import Unsupported

LARGEST = 1 << 23  # bytes of a graph that is looked at

# The fields of onnx.proto that are read: name, number and type; `*` is a repeated field.
_MESSAGES = {
    "ModelProto": "graph 7 GraphProto, opset_import* 8 OperatorSetIdProto, functions* 25 bytes",
    "OperatorSetIdProto": "domain 1 string, version 2 int64",
    "GraphProto": "node* 1 NodeProto, initializer* 5 TensorProto, sparse_initializer* 15 bytes, "
    "input* 11 ValueInfoProto, output* 12 ValueInfoProto",
    "NodeProto": "input* 1 string, output* 2 string, op_type 4 string, attribute* 5 AttributeProto, domain 7 string",
    "AttributeProto": "name 1 string, f 2 float, i 3 int64, s 4 bytes, t 5 TensorProto, g 6 bytes, floats* 7 float, "
    "ints* 8 int64, type 20 int32",
    "TensorProto": "dims* 1 int64, data_type 2 int32, float_data* 4 float, int32_data* 5 int32, int64_data* 7 int64, "
    "name 8 string, raw_data 9 bytes, double_data* 10 double, data_location 14 int32",
    "ValueInfoProto": "name 1 string, type 2 TypeProto",
    "TypeProto": "tensor_type 1 TensorTypeProto",
    "TensorTypeProto": "elem_type 1 int32, shape 2 TensorShapeProto",
    "TensorShapeProto": "dim* 1 DimensionProto",
    "DimensionProto": "dim_value 1 int64, dim_param 2 string",
}
_TENSORS: dict[
    int, tuple[np.dtype[Any], str]
] = {  # TensorProto.DataType: the type in numpy, and the field of values that are not raw
    1: (np.dtype("<f4"), "float_data"),
    6: (np.dtype("<i4"), "int32_data"),
    7: (np.dtype("<i8"), "int64_data"),
    9: (np.dtype("?"), "int32_data"),
    11: (np.dtype("<f8"), "double_data"),
}
_KINDS = {"f": 1, "i": 2, "t": 4, "floats": 6, "ints": 7}  # AttributeProto.AttributeType, by the field of its value
# The attributes of operators that are planned, and the fields of their values. With another one, a node means more.
_ATTRIBUTES = {
    **dict.fromkeys(("allowzero", "axis", "exclusive", "keepdims", "largest", "noop_with_empty_axes"), "i"),
    **dict.fromkeys(("detect_negative", "detect_positive", "reverse", "saturate", "select_last_index"), "i"),
    **dict.fromkeys(("sorted", "to", "transA", "transB", "value_int"), "i"),
    **dict.fromkeys(("alpha", "beta", "value_float"), "f"),
    **dict.fromkeys(("axes", "perm", "value_ints"), "ints"),
    "value": "t",
    "value_floats": "floats",
}


class OnnxNode(NamedTuple):
    """An operator's use. `inputs` and `outputs` are names of values, "" where one is left out."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]  # numbers, tuples of them, and arrays


class Graph(NamedTuple):
    """A graph's nodes in their order, its constants, the widths of its inputs (n, width), 0 where that is free, and
    its output's name.
    """

    nodes: list[OnnxNode]
    constants: dict[str, NDArray[Any]]
    widths: dict[str, int]
    output: str


def read_graph(content: bytes) -> Graph:
    """Read a serialized ModelProto. Raises Unsupported where it is no graph of operators of ONNX alone."""
    if len(content) > LARGEST:
        raise Unsupported("the graph is large")
    model = _MODEL()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise Unsupported(f"the graph cannot be read: {error}") from None
    graph = model.graph
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    if model.functions or graph.sparse_initializer or not 13 <= opsets.get("", 0) <= 24:
        raise Unsupported("the graph has functions, sparse constants, or operators of another version")
    constants = {tensor.name: _array(tensor) for tensor in graph.initializer}
    widths = {}
    for value in graph.input:
        kind = value.type.tensor_type
        dims = [dim.dim_value for dim in kind.shape.dim]
        if value.name in constants or kind.elem_type != 1 or len(dims) != 2 or dims[0] or dims[1] < 0:
            raise Unsupported(f"input {value.name} has not the shape (n, width)")
        widths[value.name] = dims[1]
    if len(graph.output) != 1:
        raise Unsupported("the graph has several outputs")
    return Graph([_node(node) for node in graph.node], constants, widths, graph.output[0].name)


def _node(node: Any) -> OnnxNode:
    if node.domain not in ("", "ai.onnx"):
        raise Unsupported(f"{node.op_type} of {node.domain}")
    attributes = {}
    for attribute in node.attribute:
        field = _ATTRIBUTES.get(attribute.name, "")
        if _KINDS.get(field) != attribute.type:
            raise Unsupported(f"{node.op_type} with attribute {attribute.name}")
        value = getattr(attribute, field)
        attributes[attribute.name] = _array(value) if field == "t" else tuple(value) if field[1:] else value
    return OnnxNode(node.op_type, tuple(node.input), tuple(node.output), attributes)


def _array(tensor: Any) -> NDArray[Any]:
    """A constant's values. Raises Unsupported for types that are not computed with, and for shapes that do not fit."""
    if tensor.data_type not in _TENSORS or tensor.data_location:
        raise Unsupported(f"constant {tensor.name} is of another type, or in another file")
    dtype, field = _TENSORS[tensor.data_type]
    raw = tensor.raw_data
    if raw and len(raw) % dtype.itemsize:
        raise Unsupported(f"constant {tensor.name} has a wrong size")
    values = np.frombuffer(raw, dtype) if raw else np.array(getattr(tensor, field), dtype)
    size = 1
    for dim in tensor.dims:
        size *= dim
    if size != len(values) or any(dim < 0 for dim in tensor.dims):
        raise Unsupported(f"constant {tensor.name} has a wrong size")
    try:
        return values.reshape(tuple(tensor.dims))
    except ValueError:  # numbers without an end, and none of them
        raise Unsupported(f"constant {tensor.name} has a wrong size") from None


def _messages() -> Any:
    """The class of ModelProto, in a pool of its own: the package onnx may be there too."""
    file = descriptor_pb2.FileDescriptorProto(name="tocsin/onnx.proto", package="tocsin.onnx", syntax="proto2")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for text in fields.split(", "):
            field, number, kind = text.split()
            added = message.field.add(name=field.rstrip("*"), number=int(number), label=3 if "*" in field else 1)
            if kind in _MESSAGES:
                added.type, added.type_name = added.TYPE_MESSAGE, f".tocsin.onnx.{kind}"
            else:
                added.type = getattr(added, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tocsin.onnx.ModelProto"))


_MODEL = _messages()
