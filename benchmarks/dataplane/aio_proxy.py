"""A proxy as one would write it on grpc.aio: every method, messages as bytes."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc
import uvloop

OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Proxy(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Forwards each request to the upstream by grpc.aio."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    def service(self, details: Any) -> Any:
        ask = self._channel.unary_unary(details.method)

        async def behave(request: bytes, context: Any) -> bytes:
            call = ask(request)
            response: bytes = await call
            context.set_trailing_metadata(tuple(await call.trailing_metadata()))
            return response

        return grpc.unary_unary_rpc_method_handler(behave)


async def main(port: int, upstream: int) -> None:
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{upstream}", options=OPTIONS)
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers((Proxy(channel),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.install()
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
