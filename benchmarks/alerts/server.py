"""The model server: a grpc.aio server with the demo's network, on a port that is given."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc
import uvloop

from benchmarks.alerts.camera import Network
from benchmarks.harness.parts import INFER


async def serve(port: str) -> None:
    network = Network()

    async def infer(request: bytes, context: Any) -> bytes:
        del context
        return network.answer(request)

    service, _, method = INFER[1:].partition("/")
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(infer)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.install()
    asyncio.run(serve(sys.argv[1]))
