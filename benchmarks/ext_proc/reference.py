"""The same external processor as one would write it on grpc.aio: same guard, same replies, Envoy's messages by upb.

It judges an inference of gRPC that Envoy has collected, or a route of HTTP by FULL_DUPLEX_STREAMED, as its
configuration names the protocol.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import uvloop

from benchmarks.harness.chat import CHAT
from benchmarks.harness.envoy_messages import ProcessingRequest, ProcessingResponse
from benchmarks.harness.parts import INFER
from tocsin.exchange.opening import Exchanges
from tocsin.exchange.treatment import DOCUMENT, Segment
from tocsin.judgement.batching import Batcher
from tocsin.judgement.call import Call
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
                _tell(reply.response_trailers.header_mutation, call)
            if request.observability_mode:
                continue
            getattr(reply, part).SetInParent()
            yield reply


class HttpReference:
    """Judges routes of HTTP. A document waits for its verdict, which its header brings; events go on as they come, or
    in `enforce` once they are judged.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._exchanges = Exchanges(guard)
        self._batcher = Batcher(guard)
        self._holds = guard.config.mode == "enforce"

    async def process(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        """The one method."""
        del context
        exchange = self._exchanges.open("POST", CHAT, ())
        assert exchange is not None
        call, judging, parts = exchange.call, list[asyncio.Future[None]](), list[bytes]()
        waits = False
        async for request in requests:
            part = request.WhichOneof("request")
            passes = request.observability_mode
            if part == "response_headers":
                fields = {field.key: field.raw_value.decode() for field in request.response_headers.headers.headers}
                exchange.on_response_headers(int(fields[":status"]), fields.items())
                waits = exchange.kind == DOCUMENT and not passes
                if not waits and not passes:
                    yield _reply(part)
            elif part == "response_body":
                body = request.response_body
                parts.append(body.body)
                segments = exchange.on_response_chunk(body.body)
                if body.end_of_stream:
                    segments += exchange.on_response_end()
                judging += [asyncio.ensure_future(self._batcher.judge(piece)) for piece in _pieces(call, segments)]
                if passes or (waits and not body.end_of_stream):
                    continue
                if waits or self._holds:
                    await asyncio.gather(*judging)
                if waits:
                    head = _reply("response_headers")
                    _tell(head.response_headers.response.header_mutation, call)
                    yield head
                reply = ProcessingResponse()
                streamed = reply.response_body.response.body_mutation.streamed_response
                streamed.body, streamed.end_of_stream = b"".join(parts), body.end_of_stream
                parts.clear()
                yield reply
            elif not passes:
                yield _reply(part)
        await asyncio.gather(*judging)
        self._guard.on_call_closed(call)


def _reply(part: str) -> Any:
    reply = ProcessingResponse()
    getattr(reply, part).SetInParent()
    return reply


def _tell(mutation: Any, call: Call) -> None:
    added = mutation.set_headers.add(append_action=2)
    added.header.key = METADATA_KEY
    added.header.raw_value = call.verdict.to_metadata().encode() if call.verdict is not None else b""


def _pieces(call: Call, segments: list[Segment]) -> list[Call]:
    pieces = [call.on_response_message(*message) for segment in segments for message in segment.messages]
    ended = call.ended() if any(segment.is_done for segment in segments) else []
    return [piece for piece in pieces if piece is not None] + ended


async def main(port: int, config: Path) -> None:
    """Serve until killed."""
    guard = Guard.open(config)
    is_http = any(model.protocol == "openai" for model in guard.config.models.values())
    reference = HttpReference(guard) if is_http else Reference(guard)
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
