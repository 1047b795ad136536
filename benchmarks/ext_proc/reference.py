"""The same external processor as one would write it on grpc.aio: same guard, same replies, Envoy's messages by upb."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import uvloop

from benchmarks.harness.envoy_messages import ProcessingRequest, ProcessingResponse
from benchmarks.harness.parts import INFER
from tocsin.judgement.batching import Batcher
from tocsin.judgement.guard import Guard
from tocsin.verdict import METADATA_KEY

PROCESS = "envoy.service.ext_proc.v3.ExternalProcessor"


class Reference:
    """Judges response bodies; in `enforce` before they go on, else beside that. The trailers bring the verdict."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._batcher = Batcher(guard)
        self._holds = guard.config.mode == "enforce"

    async def process(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        """The one method."""
        del context
        call = self._guard.call(INFER, {})
        assert call is not None
        judging: asyncio.Future[None] | None = None
        async for request in requests:
            part = request.WhichOneof("request")
            reply = ProcessingResponse()
            if part == "response_body":
                call.on_response_message(request.response_body.body[5:])
                judging = asyncio.ensure_future(self._batcher.judge(call))
                if request.observability_mode:
                    await judging
                    return
                if self._holds:
                    await judging
                    self._guard.acted(call, call.verdict.action if call.verdict is not None else "pass")
            elif part == "response_trailers":
                if judging is not None:
                    await judging
                added = reply.response_trailers.header_mutation.set_headers.add(append_action=2)
                added.header.key = METADATA_KEY
                added.header.raw_value = call.verdict.to_metadata().encode() if call.verdict is not None else b""
            if request.observability_mode:
                continue
            getattr(reply, part).SetInParent()
            yield reply


async def main(port: int, config: Path) -> None:
    """Serve until killed."""
    reference = Reference(Guard.open(config))
    server = grpc.aio.server()
    handler = grpc.stream_stream_rpc_method_handler(
        reference.process,
        request_deserializer=ProcessingRequest.FromString,
        response_serializer=ProcessingResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(PROCESS, {"Process": handler}),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.install()
    asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2])))
