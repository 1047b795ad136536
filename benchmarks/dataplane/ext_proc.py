"""An external processor for Envoy, as one would write it on grpc.aio: scores each response, and tells the verdict."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import uvloop
from envoy.service.ext_proc.v3 import external_processor_pb2 as messages
from envoy.service.ext_proc.v3 import external_processor_pb2_grpc as service

from benchmarks.harness.parts import INFER
from tocsin.judgement.batching import Batcher
from tocsin.judgement.guard import Guard
from tocsin.verdict import METADATA_KEY


class Processor(service.ExternalProcessorServicer):  # type: ignore[misc]
    """Judges response bodies, and adds the verdict to the trailers."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._batcher = Batcher(guard)

    async def Process(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        verdict = ""
        async for request in requests:
            if request.HasField("response_body"):
                call = self._guard.call(INFER, {})
                assert call is not None
                call.on_response_message(request.response_body.body[5:])
                await self._batcher.judge(call)
                verdict = call.verdict.to_metadata() if call.verdict is not None else ""
                yield messages.ProcessingResponse(response_body=messages.BodyResponse())
            elif request.HasField("response_trailers"):
                response = messages.ProcessingResponse(response_trailers=messages.TrailersResponse())
                added = response.response_trailers.header_mutation.set_headers.add()
                added.header.key, added.header.raw_value = METADATA_KEY, verdict.encode()
                yield response


async def main(port: int, config: Path) -> None:
    server = grpc.aio.server()
    service.add_ExternalProcessorServicer_to_server(Processor(Guard.open(config)), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.install()
    asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2])))
