"""A grpcio server with every kind of call, whose behaviour the request's metadata asks for."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc

from benchmarks.harness.parts import INFER, STREAM_INFER, streamed

KINDS = {"Unary": (False, False), "Down": (False, True), "Up": (True, False), "Both": (True, True)}


class Model(grpc.GenericRpcHandler):  # type: ignore[misc]
    """`/test.Model/KIND` echoes; ModelInfer answers `answers[request]`, or echoes what it does not know.

    `sequence` holds answers that change from call to call. `asked` counts calls by request, `seen` is their metadata,
    `peers` are who they came from.
    """

    def __init__(self) -> None:
        self.answers: dict[bytes, bytes] = {}
        self.sequence: dict[bytes, list[bytes]] = {}
        self.request_counts: Counter[bytes] = Counter()
        self.metadata: list[dict[str, Any]] = []
        self.peers: list[str] = []
        self.cancelled = 0

    def service(self, details: Any) -> Any:
        if details.method == INFER:
            return grpc.unary_unary_rpc_method_handler(self._unary)
        if details.method == STREAM_INFER:
            return grpc.stream_stream_rpc_method_handler(self._stream_infer)
        kind = details.method.rpartition("/")[2]
        if details.method.startswith("/tei.v1."):
            return grpc.unary_unary_rpc_method_handler(self._unary)
        if kind not in KINDS:
            return None
        maker = {
            "Unary": grpc.unary_unary_rpc_method_handler,
            "Down": grpc.unary_stream_rpc_method_handler,
            "Up": grpc.stream_unary_rpc_method_handler,
            "Both": grpc.stream_stream_rpc_method_handler,
        }[kind]
        return maker(getattr(self, f"_{kind.lower()}"))

    def _begin(self, context: Any) -> dict[str, str]:
        self.metadata.append(dict(context.invocation_metadata()))
        self.peers.append(context.peer())
        wishes = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
        entries = [(k, v) for k, v in context.invocation_metadata() if k.startswith(("x-", "b-"))]
        context.add_callback(lambda: None)
        if wishes.get("initial"):
            context.send_initial_metadata(tuple(entries))
        context.set_trailing_metadata(
            (*entries, ("seen-deadline", str(context.time_remaining() is not None)), ("b-bin", b"\0\xff\x80"))
        )
        if wishes.get("compress") == "gzip":
            context.set_compression(grpc.Compression.Gzip)
        if wishes.get("sleep"):
            time.sleep(float(wishes["sleep"]))
        if wishes.get("fail"):
            context.set_code(grpc.StatusCode[wishes["fail"]])
            context.set_details("details: 100% schlecht, ü and \n more")
            if wishes.get("abort"):
                context.abort(grpc.StatusCode[wishes["fail"]], "aborted: 100% ü")
        return wishes

    def _unary(self, request: bytes, context: Any) -> bytes:
        self._begin(context)
        return self._answer(request)

    def _stream_infer(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        self._begin(context)
        for request in requests:
            yield streamed(self._answer(request))

    def _answer(self, request: bytes) -> bytes:
        number = self.request_counts[request]
        self.request_counts[request] += 1
        if request in self.sequence:
            return self.sequence[request][min(number, len(self.sequence[request]) - 1)]
        return self.answers.get(request, request)

    def _down(self, request: bytes, context: Any) -> Iterator[bytes]:
        wishes = self._begin(context)
        finished: list[bool] = []
        context.add_callback(lambda: None if finished else self._count_cancelled())
        for number in range(int(wishes.get("count", "3"))):
            yield request + str(number).encode()
            if wishes.get("pause"):
                time.sleep(float(wishes["pause"]))
            if not context.is_active():
                return
        finished.append(True)

    def _count_cancelled(self) -> None:
        self.cancelled += 1

    def _up(self, requests: Iterator[bytes], context: Any) -> bytes:
        self._begin(context)
        return b"|".join(requests)

    def _both(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        self._begin(context)
        for request in requests:
            yield request[::-1]


@contextmanager
def model_server(
    address: str = "127.0.0.1:0",
    *,
    credentials: grpc.ServerCredentials | None = None,
    options: Sequence[tuple[str, Any]] = (),
) -> Iterator[tuple[Model, str]]:
    """The server, and where it listens."""
    model = Model()
    server = grpc.server(
        futures.ThreadPoolExecutor(32),
        options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), *options],
    )
    server.add_generic_rpc_handlers((model,))
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    server.start()
    try:
        yield model, address if address.startswith("unix:") else f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()
