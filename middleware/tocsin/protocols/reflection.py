"""Descriptors from a server itself (gRPC server reflection, v1 and v1alpha), asked for once at start."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import grpc
from google.protobuf import descriptor_pb2

from tocsin.protocols.descriptors import Pool, message_class, pool_of_files

SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
Request = message_class("reflection", "grpc.reflection.v1.ServerReflectionRequest")
Response = message_class("reflection", "grpc.reflection.v1.ServerReflectionResponse")


def reflected_pool(channel: grpc.Channel, services: Iterable[str], timeout: float = 5.0) -> Pool:
    """The pool of these services and all that they import. Raises ValueError telling what the server said."""
    wanted = list(services)
    problem = "it said nothing"
    for reflection in SERVICES:
        try:
            return pool_of_files(list(_files(channel, reflection, wanted, timeout)))
        except grpc.RpcError as error:
            problem = f"{error.code().name}: {error.details()}"
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                break
    raise ValueError(f"it does not send its descriptors ({problem}); give a descriptor set instead")


def services_of(channel: grpc.Channel, timeout: float = 5.0) -> list[str]:
    """The names of the services that a server lists. Raises ValueError telling what it said instead."""
    problem = "it said nothing"
    for reflection in SERVICES:
        ask = _stub(channel, reflection)
        try:
            for response in ask(iter([Request(list_services="*")]), timeout=timeout):
                return [service.name for service in response.list_services_response.service]
        except grpc.RpcError as error:
            problem = f"{error.code().name}: {error.details()}"
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                break
    raise ValueError(
        f"it does not list its services ({problem}); of one that does not, write a descriptor set and the paths of its "
        f"signals by hand: docs/tutorial_own_service.md"
    )


def _stub(channel: grpc.Channel, reflection: str) -> Any:
    return channel.stream_stream(
        f"/{reflection}/ServerReflectionInfo",
        request_serializer=Request.SerializeToString,
        response_deserializer=Response.FromString,
    )


def _files(channel: grpc.Channel, reflection: str, services: list[str], timeout: float) -> Iterator[Any]:
    """The files of these services and their imports, each once."""
    ask = _stub(channel, reflection)
    waiting = [Request(file_containing_symbol=service) for service in services]
    requested: set[str] = set()
    received: set[str] = set()
    while waiting:
        requests, waiting = waiting, []
        for response in ask(iter(requests), timeout=timeout):
            if response.HasField("error_response"):
                raise ValueError(f"it says: {response.error_response.error_message}")
            for content in response.file_descriptor_response.file_descriptor_proto:
                file = descriptor_pb2.FileDescriptorProto.FromString(content)
                if file.name in received:
                    continue
                received.add(file.name)
                yield file
                for name in file.dependency:
                    if name not in requested:
                        requested.add(name)
                        waiting.append(Request(file_by_filename=name))
        waiting = [request for request in waiting if request.file_by_filename not in received]
