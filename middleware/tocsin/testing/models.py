"""A model server for tests: it answers gRPC methods with given responses, on a free port."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
from numpy.typing import ArrayLike

from tocsin.protocols import oip

Responder = bytes | Callable[[bytes], bytes | Iterable[bytes]]
_THREADS = 16
_UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


class ServedModel(grpc.GenericRpcHandler):  # type: ignore[misc]
    """A running model server. `address` is HOST:PORT; `requests` are the methods and messages that have come."""

    def __init__(self, methods: Mapping[str, Responder]) -> None:
        self.methods = dict(methods)
        self.requests: list[tuple[str, bytes]] = []
        self.address = ""

    def service(self, handler_call_details: Any) -> Any:
        """The handler of a method, None of one that is not served."""
        method = handler_call_details.method
        responder = self.methods.get(method)
        if responder is None:
            return None

        def respond(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            del context
            for request in requests:
                self.requests.append((method, request))
                response = responder(request) if callable(responder) else responder
                yield from (response,) if isinstance(response, bytes) else response

        # A caller of any of the four kinds is served by the one that has streams both ways: bytes are the same.
        return grpc.stream_stream_rpc_method_handler(respond)


@contextmanager
def serve_model(methods: Mapping[str, Responder]) -> Iterator[ServedModel]:
    """Serve gRPC methods on a free port of 127.0.0.1 until the block ends.

    `methods` says by full name (`/package.Service/Method`) what each request message is answered with: a serialized
    message, or a function of the serialized request that returns one, or several for a stream. Methods may be added to
    and changed in the served model's `methods` while it runs.

        >>> import grpc
        >>> with serve_model({"/acme.Echo/Say": lambda request: request.upper()}) as model:
        ...     with grpc.insecure_channel(model.address) as channel:
        ...         channel.unary_unary("/acme.Echo/Say")(b"hello", timeout=60)
        b'HELLO'
    """
    model = ServedModel(methods)
    server = grpc.server(futures.ThreadPoolExecutor(_THREADS), options=_UNLIMITED)
    server.add_generic_rpc_handlers((model,))
    model.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield model
    finally:
        server.stop(0).wait()


def infer_response(model: str, signals: Mapping[str, ArrayLike], *, version: str = "") -> bytes:
    """A serialized ModelInferResponse of the Open Inference Protocol, with an FP32 tensor for each of `signals`: arrays
    by output name, the batch as first axis.

        >>> len(infer_response("digits", {"probs": [[0.1, 0.9]]})) > 0
        True
    """
    message = oip.Response(model_name=model, model_version=version)
    for name, values in signals.items():
        array = np.asarray(values, np.float32)
        message.outputs.add(name=name, datatype="FP32").shape.extend(array.shape)
        message.raw_output_contents.append(array.tobytes())
    return bytes(message.SerializeToString())
