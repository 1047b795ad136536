"""One request of httpx and its response, as far as they are the same for sync and async callers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from tocsin.exchange.exchange import Exchange
from tocsin.exchange.opening import Exchanges
from tocsin.exchange.replies import ending, reply, verdict_fields
from tocsin.exchange.treatment import (
    BODY_DEPENDENT_FIELDS,
    DOCUMENT,
    UNJUDGED,
    Segment,
    until_done,
    without_verdict,
)
from tocsin.inprocess.http_gate import HttpGate
from tocsin.inprocess.reading import EXTENSION
from tocsin.judgement.actions import Ask
from tocsin.outbound_http import HttpCall, HttpTarget

_OF_REQUEST_BYTES = ("content-length", "accept-encoding", "transfer-encoding")  # what changes with a longer request


class HttpxExchange:
    """A guarded request and its response. `library` is httpx, or one with the same classes."""

    def __init__(self, library: Any, exchange: Exchange, request: Any) -> None:
        self._library = library
        self.exchange = exchange
        self.gate = HttpGate(exchange)
        self.request = request
        self.head = UNJUDGED

    def on_request(self, body: bytes) -> None:
        """The request is complete; it may go on as another."""
        changed = self.exchange.on_request(body)
        if changed is None:
            return
        fields = self.request.headers.raw
        headers = [(key, value) for key, value in fields if key.lower().decode("latin-1") not in _OF_REQUEST_BYTES]
        headers.append((b"accept-encoding", b"identity"))
        method, url, extensions = self.request.method, self.request.url, self.request.extensions
        self.request = self._library.Request(method, url, headers=headers, content=changed, extensions=extensions)

    def on_response(self, response: Any) -> None:
        """A response begins."""
        headers = header_fields(response.headers)
        self.gate.accept(headers)
        self.head = self.exchange.on_response_headers(response.status_code, headers)

    @property
    def parts_first(self) -> int:
        """How many parts of the body may have to go on before the program gets its response. A document is one part,
        and has a second where it is too large to be read.
        """
        if self.head.kind == DOCUMENT:
            return 2
        return 1 if self.gate.holds else 0

    def early(self, segments: Sequence[Segment]) -> bytes:
        """What goes on before it is judged."""
        return b"" if self.gate.holds or self.head.kind == DOCUMENT else until_done(segments)

    def after(self, early: bytes, passed: bytes) -> bytes:
        """What goes on behind `early` now that the gate lets `passed` pass, which begins with it: the rest of that, and
        where some of the response has gone on and the rest is replaced, what takes its place.
        """
        answer, instead = self.gate.answer, self.gate.instead
        if instead is None:
            return passed[len(early) :]
        if not self.gate.is_sent:
            return b""
        return passed[len(early) :] + (answer.body if answer is not None else ending(self.exchange, instead))

    def with_stream(self, response: Any, stream: Any) -> Any:
        """The response that the program gets, whose body is this stream."""
        headers = without_verdict(header_fields(response.headers))
        if self.head.rewrites:
            headers = [(name, value) for name, value in headers if name not in BODY_DEPENDENT_FIELDS]
        extensions = {**response.extensions, EXTENSION: self.exchange.call}
        return self._library.Response(response.status_code, headers=headers, stream=stream, extensions=extensions)

    def complete(self, response: Any, body: bytes) -> Any:
        """The response that the program gets, whose body is all there, or what takes its place."""
        status, headers = response.status_code, header_fields(response.headers)
        instead = self.gate.instead
        if instead is not None and not self.gate.is_sent:
            status, headers, body = self.gate.answer or reply(self.exchange, instead)
        if self.head.rewrites or instead is not None:
            headers = [(name, value) for name, value in headers if name not in BODY_DEPENDENT_FIELDS]
            headers.append(("content-length", str(len(body))))
        headers = without_verdict(headers) + verdict_fields(self.exchange.call)
        extensions = {**response.extensions, EXTENSION: self.exchange.call}
        stream = self._library.ByteStream(body)
        return self._library.Response(status, headers=headers, stream=stream, extensions=extensions)

    def again(self, seconds: float) -> Any:
        """The request once more."""
        timeout = dict.fromkeys(("connect", "read", "write", "pool"), seconds)
        request = self.request
        return self._library.Request(
            request.method,
            request.url,
            headers=request.headers.raw,
            content=request.content,
            extensions={**request.extensions, "timeout": timeout},
        )

    def to_fallback(self, step: Ask) -> tuple[HttpTarget, HttpCall]:
        """The same request to the fallback's address."""
        assert step.upstream is not None
        request, limit = self.request, int(self.exchange.guard.config.max_message)
        path = request.url.raw_path.decode("latin-1")
        sending = HttpCall(request.method, path, header_fields(request.headers), request.content, step.seconds, limit)
        return HttpTarget(step.upstream, step.tls), sending

    def is_too_much(self, size: int, deadline: float) -> bool:
        """Whether another response is not worth waiting for."""
        return size > int(self.exchange.guard.config.max_message) or time.monotonic() > deadline


class BodyParts:
    """A response's body: parts that are there already, and those that come; sync or async as `parts` is."""

    def __init__(self, first: Sequence[bytes], parts: Any, response: Any, gate: HttpGate) -> None:
        self._first, self._parts = first, parts
        self._response, self._gate = response, gate


def opened(library: Any, exchanges: Exchanges, request: Any) -> HttpxExchange | None:
    """The exchange that a request begins; None where its route is not guarded."""
    path = request.url.raw_path.decode("latin-1")
    exchange = exchanges.open(request.method, path, header_fields(request.headers))
    return None if exchange is None else HttpxExchange(library, exchange, request)


def header_fields(headers: Any) -> list[tuple[str, str]]:
    """Header fields as text, named in lower case."""
    return [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in headers.raw]
