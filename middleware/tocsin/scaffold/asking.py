"""Asks a model server for its models and outputs (Open Inference Protocol), or its methods (gRPC reflection)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import grpc
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from tocsin.errors import StartError
from tocsin.protocols.descriptors import message_class
from tocsin.protocols.reflection import reflected_pool, services_of
from tocsin.protocols.single_fields import is_repeated

SERVICE = "/inference.GRPCInferenceService/"
TIMEOUT = 5.0  # seconds for each question
MAX_DEPTH = 4  # messages inside each other that are looked into for numbers
NUMBERS = (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE)


class Output(NamedTuple):
    """One tensor that a model answers; `shape` may hold -1."""

    name: str
    datatype: str
    shape: Sequence[int]


class MethodOutline(NamedTuple):
    """A method of a server: the paths of floating-point numbers in its response, and of maps to such numbers."""

    path: str
    numbers: Sequence[str]
    maps: Sequence[str] = ()
    streams: bool = False


def ask_models(channel: grpc.Channel, names: Sequence[str]) -> dict[str, list[Output]] | None:
    """The models and their outputs, by the Open Inference Protocol; None where the server does not support it.

    `names` are the models to ask for; without any, those that the server lists. Raises StartError where the server
    cannot be reached, or has no such model.
    """
    listed = list(names) or _listed(channel)
    if listed is None:
        return None
    models = {}
    for name in listed:
        try:
            answer = _call(channel, "ModelMetadata", "ModelMetadataRequest", "ModelMetadataResponse", name=name)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                return None
            raise StartError(f"the server says of model '{name}': {error.code().name}: {error.details()}") from None
        models[name] = [Output(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in answer.outputs]
    return models


def ask_methods(channel: grpc.Channel) -> list[MethodOutline]:
    """The methods that a server lists by reflection. Raises StartError where it lists none."""
    try:
        services = [name for name in services_of(channel, TIMEOUT) if not name.startswith("grpc.")]
        pool = reflected_pool(channel, services, TIMEOUT)
    except ValueError as error:
        raise StartError(f"the server lists neither models nor methods: {error}") from None
    outlines = []
    for service in services:
        for method in pool.FindServiceByName(service).methods:
            path = f"/{service}/{method.name}"
            places = list(_numbers(method.output_type, "response", ()))
            numbers, maps = ([place for place, is_map in places if is_map is kind] for kind in (False, True))
            outlines.append(MethodOutline(path, numbers, maps, method.server_streaming))
    return outlines


def _listed(channel: grpc.Channel) -> list[str] | None:
    try:
        answer = _call(channel, "RepositoryIndex", "RepositoryIndexRequest", "RepositoryIndexResponse")
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            return None
        raise StartError(f"the server cannot be asked: {error.code().name}: {error.details()}") from None
    return list(dict.fromkeys(model.name for model in answer.models))


def _call(channel: grpc.Channel, method: str, request: str, response: str, **content: str) -> Any:
    asked_type = message_class("open_inference_metadata", f"inference.{request}")
    answer_type = message_class("open_inference_metadata", f"inference.{response}")
    stub = channel.unary_unary(SERVICE + method, asked_type.SerializeToString, answer_type.FromString)
    return stub(asked_type(**content), timeout=TIMEOUT, wait_for_ready=False)


def _numbers(message: Descriptor, path: str, above: tuple[str, ...]) -> Iterator[tuple[str, bool]]:
    """Paths of floating-point fields, outermost first, and whether each is a map to such numbers."""
    if len(above) >= MAX_DEPTH or message.full_name in above:
        return
    inside = []
    for field in message.fields:
        place = f"{path}.{field.name}"
        if field.cpp_type in NUMBERS:
            yield place, False
        elif field.message_type is not None and field.message_type.GetOptions().map_entry:
            if field.message_type.fields_by_name["value"].cpp_type in NUMBERS:
                yield place, True
        elif field.message_type is not None:
            inside.append((field.message_type, f"{place}[]" if is_repeated(field) else place))
    for kind, place in inside:
        yield from _numbers(kind, place, (*above, message.full_name))
