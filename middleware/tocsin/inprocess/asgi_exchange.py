"""One exchange of an ASGI application whose response is judged."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from tocsin.exchange.exchange import Exchange
from tocsin.exchange.gated import Answer
from tocsin.exchange.replies import ending, reply, verdict_fields
from tocsin.exchange.treatment import BODY_DEPENDENT_FIELDS, DOCUMENT, UNJUDGED, until_done, without_verdict
from tocsin.inprocess.http_gate import HttpGate
from tocsin.judgement.actions import Ask
from tocsin.judgement.batching import Batcher
from tocsin.outbound_http import HttpCall, HttpTarget, send_aio

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LAST_LISTENING_VERSION = (
    "2.3"  # applications of later versions do not listen for callers that go away, so that none can be stopped
)
_OF_REQUEST_BYTES = (b"content-length", b"accept-encoding")  # what changes with a request that asks for more
_UNREAD_EXTENSIONS = ("http.response.pathsend", "http.response.zerocopysend")  # whose bytes would not be seen


class ServedExchange:
    """One exchange between a caller and the application."""

    def __init__(
        self, app: App, exchange: Exchange, batcher: Batcher, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self._app, self._exchange, self._batcher = app, exchange, batcher
        self._scope, self._receive, self._send = scope, receive, send
        self._gate = HttpGate(exchange)
        self._mode = exchange.guard.config.mode
        self._body: bytes | None = None  # the request's, where it was read, as the application gets it
        self._unread: list[Message] = []  # what was received before, for the application to receive
        self._start: Message | None = None  # the response's, until it goes out
        self._head = UNJUDGED
        self._has_ended = False  # nothing more goes to the caller
        self._stopped = asyncio.Event()
        self._receiving: asyncio.Task[Message] | None = None

    async def run(self) -> None:
        """Serve the exchange."""
        try:
            if self._exchange.wants_request:
                await self._read_request()
            await self._app(self._inner_scope(), self._received, self._sent)
        except Exception:
            if not self._stopped.is_set():
                raise
        finally:
            self._gate.close()
            if self._receiving is not None:
                self._receiving.cancel()

    async def _read_request(self) -> None:
        """Read the request, as far as it may be kept, so that it can be judged, changed and sent again."""
        parts: list[bytes] = []
        size, limit = 0, int(self._exchange.guard.config.max_message)
        while True:
            message = await self._receive()
            if message["type"] != "http.request":
                self._unread += [_request_message(b"".join(parts), more=True), message]
                return
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limit:
                self._exchange.on_request(None, ("too_large", f"the request has more than {limit:,} bytes"))
                self._unread.append(_request_message(b"".join(parts), more=message.get("more_body", False)))
                return
            if not message.get("more_body", False):
                break
        body = b"".join(parts)
        changed = self._exchange.on_request(body)
        self._body = body if changed is None else changed
        self._unread.append(_request_message(self._body, more=False))

    def _inner_scope(self) -> Scope:
        """The scope for the application: of a changed request, without extensions that bypass the middleware."""
        extensions = {
            name: value
            for name, value in (self._scope.get("extensions") or {}).items()
            if name not in _UNREAD_EXTENSIONS
        }
        headers = list(self._scope["headers"])
        if self._exchange.strips and self._body is not None:
            headers = [(name, value) for name, value in headers if name.lower() not in _OF_REQUEST_BYTES]
            headers.append((b"content-length", str(len(self._body)).encode()))
        asgi = dict(self._scope.get("asgi") or {})
        if self._gate.holds:
            asgi["spec_version"] = LAST_LISTENING_VERSION
        return {**self._scope, "headers": headers, "extensions": extensions, "asgi": asgi}

    async def _received(self) -> Message:
        """What the application receives. Once its response was stopped, that is a disconnect."""
        if self._unread:
            return self._unread.pop(0)
        if self._stopped.is_set():
            return {"type": "http.disconnect"}
        if self._receiving is None:
            self._receiving = asyncio.ensure_future(self._receive())
        stopped = asyncio.ensure_future(self._stopped.wait())
        try:
            await asyncio.wait({self._receiving, stopped}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
        if not self._receiving.done():
            return {"type": "http.disconnect"}
        received, self._receiving = self._receiving, None
        return received.result()

    async def _sent(self, message: Message) -> None:
        """Take what the application sends."""
        if self._has_ended:  # as servers do when a caller has gone away; the application learns of it by listening
            return
        if message["type"] == "http.response.start":
            await self._began(message)
        elif message["type"] == "http.response.body" and self._head.is_judged:
            await self._came(message.get("body", b""), is_end=not message.get("more_body", False))
        else:
            await self._send(message)

    async def _began(self, message: Message) -> None:
        """The response begins. It goes out at once unless it waits for its verdict."""
        headers = text_fields(message.get("headers", ()))
        self._gate.accept(headers)
        self._head = self._exchange.on_response_headers(message["status"], headers)
        headers = without_verdict(headers)
        if self._head.rewrites:
            headers = [(name, value) for name, value in headers if name not in BODY_DEPENDENT_FIELDS]
        self._start = {**message, "headers": _encoded(headers)}
        waits = self._head.is_judged and (
            self._gate.holds or (self._mode == "annotate" and self._head.kind == DOCUMENT) or self._head.rewrites
        )
        if not waits:
            await self._send_start()

    async def _came(self, content: bytes, *, is_end: bool) -> None:
        """Some of the response has come."""
        exchange, gate = self._exchange, self._gate
        segments = exchange.on_response_chunk(content)
        if is_end:
            segments += exchange.on_response_end()
        early = b"" if gate.holds or self._start is not None else until_done(segments)
        if early:
            await self._send_body(early)
        passed = await gate.pass_on_aio(segments, self._batcher, self._ask, is_end=is_end)
        passed = passed[len(early) :]
        if gate.instead is not None:
            await self._replace(passed)
            return
        if self._start is not None and (passed or is_end):
            await self._send_start(body=passed if is_end else None)
        if passed or is_end:
            await self._send_body(passed, more=not is_end)
        self._has_ended = is_end

    async def _replace(self, passed: bytes) -> None:
        """Send a replacement for the rest of the response. The application need not finish it."""
        instead, answer = self._gate.instead, self._gate.answer
        assert instead is not None
        self._has_ended = True
        if self._start is not None and not passed:
            replacement = answer if answer is not None else reply(self._exchange, instead)
            headers = [
                (name, value)
                for name, value in replacement.headers
                if name not in BODY_DEPENDENT_FIELDS or answer is None
            ]
            headers = without_verdict(headers) + verdict_fields(self._exchange.call)
            if answer is not None:
                headers.append(("content-length", str(len(replacement.body))))
            start = {"type": "http.response.start", "status": replacement.status, "headers": _encoded(headers)}
            await self._send(start)
            await self._send_body(replacement.body, more=False)
        else:
            if self._start is not None:
                await self._send_start()
            rest = answer.body if answer is not None else ending(self._exchange, instead)
            await self._send_body(passed + rest, more=False)
        self._stopped.set()

    async def _send_start(self, body: bytes | None = None) -> None:
        """Send the response's header fields; with the verdict and the length where all of `body` is there."""
        assert self._start is not None
        message, self._start = self._start, None
        if body is not None:
            more = verdict_fields(self._exchange.call) if self._mode != "observe" else []
            if self._head.rewrites and self._head.kind == DOCUMENT:
                more.append(("content-length", str(len(body))))
            message = {**message, "headers": [*message["headers"], *_encoded(more)]}
        await self._send(message)

    async def _send_body(self, content: bytes, *, more: bool = True) -> None:
        await self._send({"type": "http.response.body", "body": content, "more_body": more})

    async def _ask(self, step: Ask) -> Answer | None:
        """Send the request once more: to the application, or to a fallback."""
        if self._body is None:
            return None
        if step.upstream is not None:
            headers = text_fields(self._inner_scope()["headers"])
            query = self._scope.get("query_string", b"").decode("latin-1")
            path = path_of(self._scope) + (f"?{query}" if query else "")
            limit = int(self._exchange.guard.config.max_message)
            request = HttpCall(self._scope["method"], path, headers, self._body, step.seconds, limit)
            return await send_aio(HttpTarget(step.upstream, step.tls), request)
        try:
            return await asyncio.wait_for(self._asked_again(self._body), step.seconds)
        except Exception:  # whatever an application raises, it has no answer
            return None

    async def _asked_again(self, body: bytes) -> Answer | None:
        """The application's answer to the same request once more, None where it gives none."""
        requests = [_request_message(body, more=False)]
        parts: list[bytes] = []
        start: Message | None = None
        never = asyncio.Event()

        async def receive() -> Message:
            if requests:
                return requests.pop()
            await never.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
            elif message["type"] == "http.response.body":
                parts.append(message.get("body", b""))

        await self._app(self._inner_scope(), receive, send)
        if start is None:
            return None
        return start["status"], text_fields(start.get("headers", ())), b"".join(parts)


def path_of(scope: Scope) -> str:
    """The path of a request as the caller sent it, where the server passes that; else as the application sees it."""
    raw = scope.get("raw_path")
    path = raw.decode("latin-1") if raw else str(scope["path"])
    return path.removeprefix(scope.get("root_path", "").rstrip("/"))


def text_fields(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    """Header fields as text, named in lower case."""
    return [(bytes(name).decode("latin-1").lower(), bytes(value).decode("latin-1")) for name, value in headers]


def _request_message(body: bytes, *, more: bool) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


def _encoded(headers: list[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
