"""A service of somebody's own, of all four kinds of call, described by a descriptor set and served by grpcio."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from concurrent import futures
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.protobuf import descriptor_pb2
from google.protobuf.message_factory import GetMessageClass

from benchmarks.harness.serving import serving
from tocsin.protocols.descriptors import pool_of
from tocsin_detectors import Observations

SERVICE = "acme.v1.Ranker"
KINDS = {"Rank": (False, False), "Watch": (False, True), "Sum": (True, False), "Chat": (True, True)}
PATHS = {kind: f"/{SERVICE}/{kind}" for kind in KINDS}
SIGNALS = {
    "probs": "response.scores[].value",
    "embedding": {"bytes": "response.vector.data", "dtype": "response.vector.kind", "shape": "response.vector.shape"},
}
_STRING, _FLOAT, _INT64, _BYTES, _MESSAGE, _ENUM = 9, 2, 3, 12, 11, 14


def _message(name: str, *fields: tuple[str, int, int, bool, str]) -> descriptor_pb2.DescriptorProto:
    descriptor = descriptor_pb2.DescriptorProto(name=name)
    for field, number, kind, repeated, of in fields:
        descriptor.field.add(name=field, number=number, type=kind, label=3 if repeated else 1, type_name=of or None)
    return descriptor


def descriptor_set() -> bytes:
    """The service's descriptors, as protoc would write them."""
    file = descriptor_pb2.FileDescriptorProto(name="acme/ranker.proto", package="acme.v1", syntax="proto3")
    file.enum_type.add(name="Kind").value.add(name="KIND_UNKNOWN", number=0)
    file.enum_type[0].value.add(name="DT_FLOAT", number=1)
    file.enum_type[0].value.add(name="DT_DOUBLE", number=2)
    file.message_type.extend(
        [
            _message("RankRequest", ("query", 1, _STRING, False, ""), ("user", 2, _STRING, False, "")),
            _message("Score", ("label", 1, _STRING, False, ""), ("value", 2, _FLOAT, False, "")),
            _message(
                "Vector",
                ("kind", 1, _ENUM, False, ".acme.v1.Kind"),
                ("shape", 2, _INT64, True, ""),
                ("data", 3, _BYTES, False, ""),
            ),
            _message(
                "RankResponse",
                ("model", 1, _STRING, False, ""),
                ("scores", 2, _MESSAGE, True, ".acme.v1.Score"),
                ("vector", 3, _MESSAGE, False, ".acme.v1.Vector"),
                ("id", 4, _STRING, False, ""),
            ),
        ]
    )
    service = file.service.add(name="Ranker")
    for kind, (asks, answers) in KINDS.items():
        service.method.add(
            name=kind,
            input_type=".acme.v1.RankRequest",
            output_type=".acme.v1.RankResponse",
            client_streaming=asks,
            server_streaming=answers,
        )
    return bytes(descriptor_pb2.FileDescriptorSet(file=[file]).SerializeToString())


_POOL = pool_of(descriptor_set())
Request = GetMessageClass(_POOL.FindMessageTypeByName("acme.v1.RankRequest"))
Response = GetMessageClass(_POOL.FindMessageTypeByName("acme.v1.RankResponse"))


def protocol(folder: Path, **more: Any) -> dict[str, Any]:
    """The `protocols` of a configuration."""
    path = folder / "ranker.binpb"
    path.write_bytes(descriptor_set())
    return {
        "ranker": {
            "descriptors": str(path),
            "methods": {path: {"model": "response.model", **more} for path in PATHS.values()},
        }
    }


def answer(observations: Observations, row: int) -> bytes:
    """One row as a response of the service."""
    message = Response(model="digits", id=str(row))
    for label, value in enumerate(observations["probs"][row].tolist()):
        message.scores.add(label=str(label), value=value)
    message.vector.kind = 2
    message.vector.shape.extend([1, 8])
    message.vector.data = observations["embedding"][row].astype("<f8").tobytes()
    return bytes(message.SerializeToString())


class Ranker(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers each request with `answers[query]`; Sum answers what was asked last, and Watch each word by itself.

    `sequence` holds answers that change from one time to the next. `asked` are the queries answered, `calls` the kinds
    of call, `metadata` what came with each.
    """

    def __init__(self, answers: dict[str, bytes] | None = None, sequence: dict[str, list[bytes]] | None = None) -> None:
        self.answers = answers or {}
        self.sequence = sequence or {}
        self.queries: list[str] = []
        self.calls: list[str] = []
        self.metadata: list[list[tuple[str, Any]]] = []
        self.delay = 0.0  # seconds before an answer
        self.silent = False  # streams end without an answer, calls of one answer fail

    def _say(self, request: Any) -> Any:
        before = self.queries.count(request.query)
        self.queries.append(request.query)
        if request.query in self.sequence:
            several = self.sequence[request.query]
            return Response.FromString(several[min(before, len(several) - 1)])
        return Response.FromString(self.answers[request.query])

    def _note(self, kind: str, context: Any) -> None:
        self.calls.append(kind)
        self.metadata.append([(key, value) for key, value in context.invocation_metadata()])
        time.sleep(self.delay)
        if self.silent and kind in ("Rank", "Sum"):
            raise ValueError("silent")

    def service(self, details: Any) -> Any:
        kind = details.method.rpartition("/")[2]
        makers = {
            "Rank": (grpc.unary_unary_rpc_method_handler, self.rank),
            "Watch": (grpc.unary_stream_rpc_method_handler, self.watch),
            "Sum": (grpc.stream_unary_rpc_method_handler, self.sum),
            "Chat": (grpc.stream_stream_rpc_method_handler, self.chat),
        }
        if not details.method.startswith(f"/{SERVICE}/") or kind not in makers:
            return None
        make, behaviour = makers[kind]
        return make(behaviour, request_deserializer=Request.FromString, response_serializer=Response.SerializeToString)

    def rank(self, request: Any, context: Any) -> Any:
        self._note("Rank", context)
        context.set_trailing_metadata((("x-ranker", "yes"),))
        return self._say(request)

    def watch(self, request: Any, context: Any) -> Iterator[Any]:
        self._note("Watch", context)
        for query in [] if self.silent else request.query.split():
            yield self._say(Request(query=query))

    def sum(self, requests: Iterator[Any], context: Any) -> Any:
        self._note("Sum", context)
        return [self._say(request) for request in requests][-1]

    def chat(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        self._note("Chat", context)
        for request in requests:
            yield self._say(request)


class AioRanker(Ranker):
    """The same in an event loop."""

    async def rank(self, request: Any, context: Any) -> Any:
        self._note("Rank", context)
        context.set_trailing_metadata((("x-ranker", "yes"),))
        return self._say(request)

    async def watch(self, request: Any, context: Any) -> AsyncIterator[Any]:  # type: ignore[override]
        self._note("Watch", context)
        for query in [] if self.silent else request.query.split():
            yield self._say(Request(query=query))

    async def sum(self, requests: Any, context: Any) -> Any:
        self._note("Sum", context)
        return [self._say(request) async for request in requests][-1]

    async def chat(self, requests: Any, context: Any) -> AsyncIterator[Any]:  # type: ignore[override]
        self._note("Chat", context)
        async for request in requests:
            yield self._say(request)


@contextmanager
def ranker(
    answers: dict[str, bytes],
    *interceptors: Any,
    reflecting: bool = False,
    sequence: dict[str, list[bytes]] | None = None,
    pair: tuple[Path, Path] | None = None,
) -> Iterator[tuple[Ranker, str]]:
    """The service, and where it listens; with TLS by a certificate and its key."""
    service = Ranker(answers, sequence)
    server = grpc.server(futures.ThreadPoolExecutor(16), interceptors=interceptors)
    server.add_generic_rpc_handlers((service,))
    if reflecting:
        from google.protobuf import descriptor_pool
        from grpc_reflection.v1alpha import reflection

        shown = descriptor_pool.DescriptorPool()
        for file in descriptor_pb2.FileDescriptorSet.FromString(descriptor_set()).file:
            shown.Add(file)
        reflection.enable_server_reflection((SERVICE, reflection.SERVICE_NAME), server, pool=shown)
    with serving(server, pair) as address:
        yield service, address


@asynccontextmanager
async def aio_ranker(service: AioRanker, *interceptors: Any) -> AsyncIterator[str]:
    """Where the service listens in the running event loop."""
    server = grpc.aio.server(interceptors=list(interceptors))
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


def far(rows: int) -> Observations:
    """Responses that alarm."""
    return Observations({"probs": np.full((rows, 10), 0.1), "embedding": np.full((rows, 8), 30.0)})
