"""A guarded transport for httpx.Client."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from tocsin.exchange.gated import Answer
from tocsin.exchange.opening import Exchanges
from tocsin.inprocess.httpx_exchange import BodyParts, HttpxExchange, header_fields, opened
from tocsin.judgement.actions import Ask
from tocsin.outbound_http import send


class GuardedTransport:
    """Judges the responses of another transport."""

    library: Any
    stream_type: Any

    def __init__(self, transport: Any, exchanges: Exchanges) -> None:
        self._transport = transport
        self._exchanges = exchanges

    def handle_request(self, request: Any) -> Any:
        """Pass a request on, and judge the response of a guarded route."""
        http_exchange = opened(self.library, self._exchanges, request)
        if http_exchange is None:
            return self._transport.handle_request(request)
        if http_exchange.exchange.wants_request:
            http_exchange.on_request(request.read())
        try:
            response = self._transport.handle_request(http_exchange.request)
        except BaseException:
            http_exchange.gate.close()
            raise
        http_exchange.on_response(response)
        if not http_exchange.head.is_judged:
            http_exchange.gate.close()
            return http_exchange.with_stream(response, response.stream)
        parts = self._parts(http_exchange, response)
        first: list[bytes] = []
        if http_exchange.parts_first:
            for part in parts:
                first.append(part)
                if len(first) == http_exchange.parts_first:
                    break
            else:
                return http_exchange.complete(response, b"".join(first))
        return http_exchange.with_stream(response, self.stream_type(first, parts, response, http_exchange.gate))

    def _parts(self, http_exchange: HttpxExchange, response: Any) -> Iterator[bytes]:
        """The bytes that may go on, as they may."""
        exchange, gate = http_exchange.exchange, http_exchange.gate

        def ask(step: Ask) -> Answer | None:
            return self._ask(http_exchange, step)

        try:
            for content in response.stream:
                segments = exchange.on_response_chunk(content)
                if early := http_exchange.early(segments):
                    yield early
                if following := http_exchange.after(early, gate.pass_on(segments, ask)):
                    yield following
                if gate.instead is not None:
                    return
            passed = gate.pass_on(exchange.on_response_end(), ask, is_end=True)
            if following := http_exchange.after(b"", passed):
                yield following
        finally:
            response.close()
            gate.close()

    def _ask(self, http_exchange: HttpxExchange, step: Ask) -> Answer | None:
        """The fallback's answer, or the model's to the same request; None where none came in time."""
        if step.upstream is not None:
            return send(*http_exchange.to_fallback(step))
        deadline = time.monotonic() + step.seconds
        try:
            response = self._transport.handle_request(http_exchange.again(step.seconds))
            body = bytearray()
            try:
                for content in response.stream:
                    body += content
                    if http_exchange.is_too_much(len(body), deadline):
                        return None
            finally:
                response.close()
        except self.library.TransportError:
            return None
        return response.status_code, header_fields(response.headers), bytes(body)

    def close(self) -> None:
        self._transport.close()


class HttpxBody(BodyParts):
    """A response's body for sync callers."""

    def __iter__(self) -> Iterator[bytes]:
        yield from self._first
        yield from self._parts

    def close(self) -> None:
        self._parts.close()
        self._response.close()  # also where no part was asked for
        self._gate.close()
