"""One gRPC stream from Envoy: an exchange, or a call of the health service."""

from __future__ import annotations

from asyncio import TimerHandle
from collections.abc import Callable, Iterator, Mapping
from typing import Final
from urllib.parse import quote

from tocsin.ext_proc.context import WaitingResponse
from tocsin.ext_proc.exchange import EnvoyExchange
from tocsin.ext_proc.hosts import ConnectionHost
from tocsin.ext_proc.request_head import ENVOY_PREFIXES
from tocsin.ext_proc.requests import Fields, MessageError, read_request
from tocsin.grpc_wire.content_types import is_grpc
from tocsin.grpc_wire.deframer import Message, MessageDeframer, framed, whole_message
from tocsin.http2 import frames
from tocsin.http2.header_literals import block
from tocsin.judgement.actions import Ask, Outcome
from tocsin.judgement.call import Call
from tocsin.outbound_http import Answer, HttpCall, HttpTarget, send_aio
from tocsin.protocols.messages import decompress
from tocsin.relay.retrier import CallRoute
from tocsin.unscored import Unscored

PROCESS: Final = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
HEALTH: Final = "/grpc.health.v1.Health/Check"
OK: Final = 0
INVALID_ARGUMENT: Final = 3
RESOURCE_EXHAUSTED: Final = 8
UNIMPLEMENTED: Final = 12
INTERNAL: Final = 13
LARGEST_CHUNK: Final = 4 << 20  # bytes of a message of Envoy's that are always taken: its pieces have up to 2 MB
HEADERS_SIZE: Final = 1 << 18  # of a message besides a body
_OPENING: Final = block([(":status", "200"), ("content-type", "application/grpc")])
_WRONG_TYPE: Final = block([(":status", "415")])
_SERVING: Final = b"\x08\x01"
_NOT_SERVING: Final = b"\x08\x02"
_UNESCAPED: Final = " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"


class ProcessorStream:
    """A stream of one connection. `has_messages`: Envoy has sent a message on it."""

    __slots__ = (
        "_connection", "_deframer", "_encoding", "_exchange", "_has_ended", "_headers_sent", "_id", "_is_half_closed",
        "_is_health", "_limit", "_server", "has_messages", "memory", "origin",
    )  # fmt: skip

    def __init__(self, connection: ConnectionHost, stream_id: int) -> None:
        self.memory = connection.memory
        self.origin = connection.name
        self.has_messages = False
        self._connection = connection
        self._id = stream_id
        self._server = connection.server
        self._limit = max(self._server.context.max_message, LARGEST_CHUNK) + HEADERS_SIZE
        self._exchange: EnvoyExchange | None = None
        self._is_health = False
        self._encoding = ""
        self._deframer: MessageDeframer | None = None
        self._headers_sent = False
        self._has_ended = False  # nothing more is sent
        self._is_half_closed = False  # nothing more comes

    # -- what comes

    def begin(self, fields: Mapping[str, str], *, ended: bool) -> None:
        """The request's headers."""
        path = fields.get(":path", "")
        self._is_half_closed = ended
        if not is_grpc(fields.get("content-type", "")) or fields.get(":method") != "POST":
            self._has_ended = True
            self._connection.put(frames.header_frames(self._id, _WRONG_TYPE, end_stream=True))
            self._leave()
        elif path == PROCESS:
            self._encoding = fields.get("grpc-encoding", "")
            self._exchange = EnvoyExchange(self._server.context, self)
            if ended:
                self.on_half_closed()
        elif path == HEALTH:
            self._is_health = True
            if ended:
                self.on_half_closed()
        else:
            self.finish(UNIMPLEMENTED, "tocsin: this port serves Envoy's external processing alone")

    def on_data(self, payload: bytes) -> None:
        """A piece of Envoy's messages."""
        if self._has_ended or self._exchange is None:
            return
        self.has_messages = True
        if self._deframer is None:
            content = whole_message(payload, self._limit)
            if content is not None:
                self._on_message(content)
                return
            self._deframer = MessageDeframer(self._limit, self.memory)
        self.work(self._taking(self._deframer.feed(payload)), len(payload))

    def _taking(self, messages: Iterator[Message]) -> Iterator[None]:
        for message in messages:
            if self._has_ended or self._exchange is None:
                return
            plain = message.content
            if plain is None:
                self._server.context.limited["memory" if message.fault == "memory" else "message"] += 1
                self._exchange.end(RESOURCE_EXHAUSTED, f"tocsin: a message of Envoy's was not kept ({message.fault})")
                return
            if message.compressed:
                try:
                    plain = decompress(plain, self._encoding, self._limit)
                except Unscored as why:
                    self._exchange.end(INTERNAL, f"tocsin: {why}")
                    return
            self._on_message(plain)
            yield

    def work(self, steps: Iterator[None], size: int) -> None:
        self._connection.work(steps, size)

    def _on_message(self, content: bytes) -> None:
        exchange = self._exchange
        if self._has_ended or exchange is None:
            return
        try:
            exchange.on_message(read_request(content))
        except MessageError as error:
            self._server.context.not_understood["message"] += 1
            exchange.end(INVALID_ARGUMENT, f"tocsin: no ProcessingRequest: {error}")

    def on_half_closed(self) -> None:
        """Envoy sends nothing more."""
        self._is_half_closed = True
        if self._is_health:
            self._send(_SERVING if self._server.is_ready() else _NOT_SERVING)
            self._end(OK, "")
            return
        if self._exchange is None or not self._exchange.is_waiting:
            self._finish_half_closed()

    def _finish_half_closed(self) -> None:
        """End the stream that Envoy has ended, once Envoy has every reply that it waits for."""
        if self._has_ended or (self._exchange is not None and self._exchange.is_waiting):
            return
        if self._exchange is not None:
            self._exchange.on_closed()
        self.finish()
        self._connection.flush()

    def on_closed(self) -> None:
        """The stream is gone."""
        self._has_ended = True
        if self._deframer is not None:
            self._deframer.forget()
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.on_closed()

    # -- what goes

    def reply(self, content: bytes) -> None:
        if not self._has_ended:
            self._send(content)
            self._server.write_later(self._connection)
            if self._is_half_closed:
                self._server.loop.call_soon(self._finish_half_closed)

    def finish(self, status: int = OK, message: str = "") -> None:
        if not self._has_ended:
            if self._exchange is not None and status == OK:
                self._exchange.on_closed(is_abandoned=False)
            self._end(status, message)

    def _send(self, content: bytes) -> None:
        connection = self._connection
        if not self._headers_sent:
            self._headers_sent = True
            connection.put(frames.header_frames(self._id, _OPENING, end_stream=False))
        connection.send_window.send(self._id, framed(content))

    def _end(self, status: int, message: str) -> None:
        self._has_ended = True
        fields = [("grpc-status", str(status))]
        if message:
            fields.append(("grpc-message", quote(message, safe=_UNESCAPED)))
        content = block(fields) if self._headers_sent else _OPENING + block(fields)
        trailers = frames.header_frames(self._id, content, end_stream=True)
        self._connection.send_window.enqueue_after_data(self._id, trailers)
        self._leave()
        self._server.write_later(self._connection)

    def _leave(self) -> None:
        """Nothing more is sent or read. The exchange, which knows this stream, is let go, or both waited for the
        collector.
        """
        self._exchange = None
        if self._deframer is not None:
            self._deframer.forget()
        connection = self._connection
        if not self._is_half_closed:
            connection.send_window.enqueue_after_data(self._id, frames.reset(self._id, frames.NO_ERROR))
        connection.on_stream_ended(self._id)

    # -- judgement

    def submit(self, call: Call, waiting: WaitingResponse) -> None:
        self._connection.on_submitted()
        self._server.batcher.submit(call, waiting)

    def go_on_later(self, waiting: WaitingResponse) -> None:
        self._server.go_on_later(waiting)

    def limit(self, waiting: WaitingResponse, call: Call) -> TimerHandle | None:
        server = self._server
        if server.batcher.inline:
            return None
        return server.loop.call_later(server.context.guard.budget(call), self._on_deadline, waiting)

    def _on_deadline(self, waiting: WaitingResponse) -> None:
        waiting.on_deadline()
        self._connection.flush()

    def ask(
        self, step: Ask, fields: Fields, opened: float, on_answer: Callable[[Outcome], None]
    ) -> Callable[[], object]:
        server, connection = self._server, self._connection
        config = server.context.config

        def tell(outcome: Outcome) -> None:
            on_answer(outcome)
            connection.flush()

        if step.upstream is None and "upstream" not in config.model_fields_set:
            return server.loop.call_soon(tell, None).cancel  # where Envoy sends requests is not known here
        fields = [field for field in fields if not field[0].startswith(ENVOY_PREFIXES)]
        route = CallRoute(config.upstream, config.upstream_tls, fields, opened, server.context.max_message)
        return server.retrier.ask(step, route, tell).cancel

    def ask_http(
        self, step: Ask, request: HttpCall, on_answer: Callable[[Answer | None], None]
    ) -> Callable[[], object]:
        server, connection = self._server, self._connection
        config = server.context.config

        def tell(answer: Answer | None) -> None:
            on_answer(answer)
            connection.flush()

        if step.upstream is not None:
            target = HttpTarget(step.upstream, step.tls)
        elif "upstream" in config.model_fields_set:
            target = HttpTarget(config.upstream, config.upstream_tls)
        else:
            return server.loop.call_soon(tell, None).cancel  # where Envoy sends requests is not known here

        async def ask() -> None:
            tell(await send_aio(target, request))

        task = server.loop.create_task(ask())
        server.asking.add(task)
        task.add_done_callback(server.asking.discard)
        return task.cancel
