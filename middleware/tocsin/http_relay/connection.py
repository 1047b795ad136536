"""A caller's connection that speaks HTTP/1.1, and the upstream connection that goes with it.

Requests are served one after the other: what comes of the next one waits until the response before it is sent. The
upstream connection is opened for the first request, and anew for the next where a response was ended before the
upstream had ended it.
"""

from __future__ import annotations

import asyncio
from asyncio import TimerHandle
from collections.abc import Callable

from tocsin.exchange.replies import Reply
from tocsin.http_relay.bodies import Body, BodyError, OpenBody, body_of
from tocsin.http_relay.context import HttpContext, RelayedResponse, ResponseHost
from tocsin.http_relay.heads import HeadError, Http1Request, read_request, read_response
from tocsin.http_relay.passing import PassedResponse
from tocsin.http_relay.replies import CONTINUE, refusal, written
from tocsin.http_relay.request import Passage, RelayedRequest
from tocsin.http_relay.response import GuardedResponse
from tocsin.http_relay.sides import Side, SideHost
from tocsin.judgement.batching import MOST_WAITING, VerdictCallback
from tocsin.judgement.call import Call
from tocsin.judgement.enforcement import Ask
from tocsin.outbound_http import Answer, HttpCall, HttpTarget, send_aio
from tocsin.relay.context import RelayedConnection
from tocsin.relay.listening import Port

MOST_UNREAD = 1 << 16  # bytes of requests that wait for the response before them, or for the upstream
MOST_JUDGING = MOST_WAITING // 4  # responses of one connection that may wait for the scorer
LINGERS = 1.0  # seconds in which a caller that still sends may read why nobody listens
HEAD_END = b"\r\n\r\n"
HALF_SENT = "the caller has sent half of a request"


class HttpConnection(RelayedConnection):
    """Both sides, the request that is under way between them, and its response."""

    def __init__(self, context: HttpContext, port: Port) -> None:
        self.context = context
        self.relay = context.relay
        self.name = self.relay.name_connection()
        self.port = port
        self.memory = self.relay.memory.open(self._evicted)
        self.idle_since = self.relay.now()
        self._sockets = _Sockets(self)
        self.downstream = Side(self._sockets)
        self.upstream: Side | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._received = b""  # from the caller, not read yet
        self._unread_response = b""  # from the upstream, not read yet
        self._request: RelayedRequest | None = None
        self._response: RelayedResponse | None = None
        self._body: Body | None = None  # the response's
        self._awaits_response = False  # a request is under way, whose response is not sent yet
        self._upstream_keeps = True  # its connection, behind this response
        self._is_reused = False  # the upstream connection has answered before
        self._is_tunnel = False  # the upstream has changed to another protocol
        self._is_going = False
        self._draining = False
        self._half_closed = False  # the caller writes no more
        self._is_ending = False  # nothing more is read of the caller
        self._asking: set[asyncio.Task[None]] = set()
        self._host = _Host(self)

    # -- as the relay knows it

    @property
    def open_streams(self) -> int:
        return 1 if self._request is not None or self._is_tunnel else 0

    @property
    def is_greeted(self) -> bool:
        return self._request is not None or self._is_tunnel or not self._received

    def written_after_flush(self) -> None:
        pass

    def leads_to(self, port: object) -> bool:
        return port is self.port and self.upstream is not None and self.upstream.transport is not None

    def retire(self) -> None:
        """Requests follow the configuration as they come."""

    def drain(self) -> None:
        self._draining = True
        if self._request is None and not self._is_tunnel:
            self.close()

    def close(self) -> None:
        self._is_ending = True
        self.downstream.close()
        self._drop_upstream()

    # -- the caller

    def on_received(self, data: bytes) -> None:
        """Bytes of the caller."""
        if self._is_ending:
            return
        if self._is_tunnel:
            if self.upstream is not None:
                self.upstream.write(data)
            return
        if not self._received:
            if self._request is None:
                self.idle_since = self.relay.now()
            self._received = data
        else:
            self._received += data
        self.go_on()

    def go_on(self) -> None:
        """Read what has come of the caller, as far as it is its turn."""
        if self._is_going:
            return
        self._is_going = True
        while self._received and not self._is_ending and self._read():
            pass
        self._is_going = False
        self.pace()

    def _read(self) -> bool:
        """Read the next part of what has come; whether there was one."""
        request = self._request
        if request is None:
            return self._begin()
        if request.is_complete:
            return False  # the next one waits
        try:
            raw, content, self._received = request.body.feed(self._received)
        except BodyError as error:
            self.relay.not_understood["malformed"] += 1
            self._refuse_rest(400, "MALFORMED", str(error))
            return False
        request.on_body(raw, content)
        if request.body.is_done:
            request.on_end()
            if not self._awaits_response:
                self._end_request()
        return True

    def _begin(self) -> bool:
        """Read a head, where there is a whole one."""
        received = self._received
        if received.startswith(b"\r\n"):  # old clients end a body so
            received = self._received = received[2:]
        end = received.find(HEAD_END)
        longest = self.relay.longest_headers
        if end < 0 and len(received) <= longest:
            if not received[:1].isalpha() and received and received != b"\r":
                self._refuse_malformed(HeadError(400, "this is no HTTP"))
            elif b"\n\n" in received:
                self._refuse_malformed(HeadError(400, "lines end in CRLF"))
            return False
        if end < 0 or end + 4 > longest:
            self.relay.limited["headers"] += 1
            self._refuse_rest(431, "HEADERS", f"the head of a request has more than {longest:,} bytes")
            return False
        try:
            head = read_request(received[: end + 4], self.context.names)
        except HeadError as error:
            self._refuse_malformed(error)
            return False
        if self._draining:
            self.close()
            return False
        self._received = received[end + 4 :]
        self._open(head)
        return True

    def _refuse_malformed(self, error: HeadError) -> None:
        self.relay.not_understood["malformed"] += 1
        self._refuse_rest(error.status, "MALFORMED", str(error))

    def _open(self, head: Http1Request) -> None:
        """A request begins."""
        relay, context = self.relay, self.context
        if head.verb == "CONNECT":
            self._refuse_malformed(HeadError(400, "the target of a request must be a path"))
            return
        exchange = context.open(head, self.name, self.port.listener.model)
        relay.calls[exchange is not None] += 1
        body = body_of(head.length, relay.longest_headers)
        upgrades = exchange is None and not relay.fails_closed and "h2c" not in head.upgrade.lower()
        passage = Passage(self._send_upstream, self._allow)
        limit = relay.max_message
        request = RelayedRequest(head, body, exchange, passage, self.memory, limit=limit, upgrades=upgrades)
        self._request = request
        self._awaits_response = True
        if exchange is None and not context.passes_unguarded(head):
            relay.limited["unguarded"] += 1
            self._answer(refusal(403, "UNGUARDED", f"no model guards {head.verb} {head.path}"))
            return
        self._ensure_upstream()
        request.begin()
        if body.is_done:
            request.on_end()

    def _allow(self) -> None:
        self.downstream.write(CONTINUE)

    def _send_upstream(self, content: bytes) -> None:
        self._ensure_upstream()
        if self.upstream is not None:
            self.upstream.write(content)

    def _answer(self, reply: Reply) -> None:
        """Answer the request that is under way, in place of the upstream."""
        request = self._request
        assert request is not None
        if self._response is not None:
            self._response.on_gone()
            self._response = None
        self._body = None
        self.downstream.write(written(reply, request.head, closes=self.closes_after(replaces=True)))
        self._drop_upstream()
        self._on_done(closes=False)

    def _refuse_rest(self, status: int, code: str, message: str) -> None:
        """What the caller sends cannot be read, nor what comes behind it: say so where nothing was said, and end."""
        response, request = self._response, self._request
        says = not self._awaits_response or response is None or not response.is_begun
        if response is not None:
            response.on_gone()
        elif request is not None and request.exchange is not None:
            self.relay.guard.on_call_closed(request.exchange.call)
        if request is not None:
            request.on_gone()
        if says:
            self.downstream.write(written(refusal(status, code, message), None, closes=True))
        self._request = self._response = self._body = None
        self._awaits_response = False
        self._end()

    def _end(self) -> None:
        """Nothing more is read: let the caller read what was written, then close."""
        if self._is_ending:
            return
        self._is_ending = True
        self._received = b""
        self._drop_upstream()
        downstream = self.downstream
        downstream.end_writing()
        downstream.read(reads=True)
        if downstream.transport is not None:
            asyncio.get_running_loop().call_later(LINGERS, downstream.close)

    def on_caller_half_closed(self) -> bool:
        """The caller writes no more; whether its response may still be sent."""
        self._half_closed = True
        request = self._request
        if self._is_tunnel and self.upstream is not None:
            self.upstream.end_writing()
            return True
        if self._is_ending or request is None or not request.is_complete:
            return False
        if self.upstream is not None:  # which may go on, or take it for a caller that has gone away
            self.upstream.end_writing()
        return True

    def on_caller_gone(self) -> None:
        """The caller is gone: so is everything of this connection."""
        self._is_ending = True
        if self._response is not None:
            if not self._response.is_over:
                self._response.on_gone()
        elif self._request is not None and self._request.exchange is not None:
            self.relay.guard.on_call_closed(self._request.exchange.call)
        if self._request is not None:
            self._request.on_gone()
        self._request = self._response = self._body = None
        for task in list(self._asking):
            task.cancel()
        self._drop_upstream()
        self.memory.close()
        self.relay.connections.discard(self)

    # -- the upstream

    def _ensure_upstream(self) -> None:
        if self.upstream is None:
            self._is_reused = False
            self._unread_response = b""
            side = self.upstream = Side(self._sockets)
            self._connecting = asyncio.get_running_loop().create_task(self._connect(side))

    async def _connect(self, side: Side) -> None:
        relay, upstream = self.relay, self.port.listener.upstream
        try:
            async with asyncio.timeout(relay.config.connect_timeout.total_seconds()):
                await self.port.connect_upstream(lambda: side, is_http1=True)
        except TimeoutError:
            self._on_unreachable(side, f"upstream {upstream} did not answer the connection in time")
        except OSError as error:
            why = relay.descriptors.explain(error) or f"upstream {upstream} cannot be reached"
            self._on_unreachable(side, f"{why}: {error.strerror or error}")
        else:
            if side is not self.upstream:
                side.abort()
            self.pace()

    def _on_unreachable(self, side: Side, reason: str) -> None:
        self.relay.upstream_failed(reason)
        self.port.doubt_upstream()
        if side is not self.upstream:
            return
        self.upstream = None
        request = self._request
        if request is None:
            return
        if request.exchange is not None:
            self.relay.guard.on_call_closed(request.exchange.call)
        self._answer(refusal(503, "UPSTREAM", reason))

    def _drop_upstream(self) -> None:
        """End the upstream connection, whatever it still sends."""
        side, self.upstream = self.upstream, None
        self._unread_response = b""
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        if side is not None:
            side.is_closed = True
            side.abort()

    def on_answered(self, data: bytes) -> None:
        """Bytes of the upstream."""
        if self._is_tunnel:
            self.downstream.write(data)
            return
        self._unread_response = self._unread_response + data if self._unread_response else data
        while self._unread_response and self.upstream is not None:
            if not self._awaits_response or (self._response is not None and self._body is None):
                self._on_desynchronised()
                return
            if self._body is None:
                if not self._read_head():
                    return
            elif not self._read_body():
                return

    def _on_desynchronised(self) -> None:
        """The upstream answers what nobody asked: whose that would be to the next request cannot be known."""
        self.relay.not_understood["malformed"] += 1
        if self._request is None or self._response is None:
            self.close()
        else:  # the response is there, and waits: the connection is of no use behind it
            self._drop_upstream()

    def _read_head(self) -> bool:
        """Read the head of a response, where there is a whole one; whether there was."""
        request = self._request
        assert request is not None
        received = self._unread_response
        end = received.find(HEAD_END)
        longest = self.relay.longest_headers
        try:
            if end < 0 and len(received) <= longest:
                return False
            if end < 0:
                raise HeadError(502, f"the head of the upstream's response has more than {longest:,} bytes")
            head = read_response(received[: end + 4], request.head.verb)
            if head.status == 101 and not request.upgrades:
                raise HeadError(502, "the upstream changes to another protocol unasked")
        except HeadError as error:
            self.relay.not_understood["malformed"] += 1
            if request.exchange is not None:
                self.relay.guard.on_call_closed(request.exchange.call)
            self._answer(refusal(502, "UPSTREAM", str(error)))
            return False
        self._unread_response = received[end + 4 :]
        if head.status == 101:
            self._become_tunnel(head.raw)
            return False
        if head.is_interim:
            if request.head.minor == 1:
                self.downstream.write(head.raw)
            return True
        self._upstream_keeps = head.keeps_alive
        self._is_reused = True
        body = self._body = body_of(head.length, longest)
        if request.exchange is None:
            response: RelayedResponse = PassedResponse(self._host, head, body)
        else:
            response = GuardedResponse(
                self.relay, self._host, request.exchange, request.head, request.again, head, body
            )
        self._response = response
        response.on_head()
        if body.is_done:
            self._on_answer_complete()
        return True

    def _read_body(self) -> bool:
        """Read on in the body of a response; whether it has ended."""
        body, response = self._body, self._response
        assert body is not None and response is not None
        try:
            raw, content, self._unread_response = body.feed(self._unread_response)
        except BodyError:
            self.relay.not_understood["malformed"] += 1
            self._lose_response()
            return False
        response.on_body(raw, content)
        if not body.is_done:
            return False
        if self._body is body:
            self._on_answer_complete()
        return True

    def _on_answer_complete(self) -> None:
        """All of the response has come."""
        response, self._body = self._response, None
        assert response is not None
        if self._unread_response:  # it would be taken for the answer to the next request
            self.relay.not_understood["malformed"] += 1
            self._unread_response = b""
            self._upstream_keeps = False
        response.on_end()
        if not self._upstream_keeps:
            self._drop_upstream()

    def _lose_response(self) -> None:
        response, self._body = self._response, None
        self._drop_upstream()
        if response is not None:
            response.on_lost()

    def on_upstream_gone(self, side: Side) -> None:
        """The upstream's socket is gone."""
        if side is not self.upstream:
            return
        self.upstream = None
        self.port.doubt_upstream()
        if self._is_tunnel or self._request is None:
            self.close()
        elif self._body is not None:
            if isinstance(self._body, OpenBody):
                self._on_answer_complete()
            else:
                self._lose_response()
        elif self._response is None and self._awaits_response and not self._request.waits:
            self._on_no_answer()

    def _on_no_answer(self) -> None:
        """The upstream has gone without a response."""
        request = self._request
        assert request is not None
        if request.exchange is not None:
            self.relay.guard.on_call_closed(request.exchange.call)
        if self._is_reused:  # it closes what is idle: callers know that, and send the request again by themselves
            self.close()
            return
        reason = f"upstream {self.port.listener.upstream} closed the connection without a response"
        self.relay.upstream_failed(reason)
        self._answer(refusal(502, "UPSTREAM", reason))

    def _become_tunnel(self, head: bytes) -> None:
        """Both have agreed to speak something else, which passes unread."""
        self.relay.not_understood["upgraded"] += 1
        self._is_tunnel = True
        self.downstream.write(head + self._unread_response)
        self._unread_response = b""
        if self._received and self.upstream is not None:
            self.upstream.write(self._received)
        self._received = b""
        self.idle_since = self.relay.now()

    # -- a response has gone out

    def closes_after(self, *, replaces: bool = False) -> bool:
        """Whether the connection ends with the response that is under way, whatever that says. `replaces`: it is the
        relay's own.
        """
        request = self._request
        if self._draining or request is None or not request.head.keeps_alive or not self._upstream_keeps:
            return True
        return replaces and not (request.is_complete or request.is_short)

    def _on_done(self, *, closes: bool) -> None:
        request = self._request
        self._response = None
        self._awaits_response = False
        if self._body is not None and not self._body.is_done:  # it was ended before the upstream had
            self._body = None
            self._drop_upstream()
        elif self._body is not None:
            self._body = None
        if request is None:
            return
        if closes or self.closes_after(replaces=self.upstream is None):
            self._end_with(request)
        elif request.is_complete:
            self._end_request()
        elif self.upstream is None:
            request.discard()

    def _end_with(self, request: RelayedRequest) -> None:
        """The connection ends with this response."""
        request.on_gone()
        self._request = None
        if request.is_complete and not self._received:
            self.close()
        else:
            self._end()

    def _end_request(self) -> None:
        """The request is complete, and its response sent: on with the next one."""
        self._request = None
        self._upstream_keeps = True
        self.idle_since = self.relay.now()
        if self._half_closed and not self._received:
            self.close()
        else:
            self.go_on()

    # -- pace and limits

    def pace(self) -> None:
        """Read as fast as the other side takes it."""
        upstream = self.upstream
        if upstream is not None:
            upstream.read(reads=not self.downstream.is_paused)
        is_full = upstream is not None and (upstream.is_paused or upstream.unsent > MOST_UNREAD)
        self.downstream.read(reads=self._is_ending or not (is_full or len(self._received) > MOST_UNREAD))

    def _evicted(self) -> None:
        self.relay.limited["memory"] += 1
        self._is_ending = True
        self._drop_upstream()
        self.downstream.abort()

    def ask(self, step: Ask, request: HttpCall, on_answer: Callable[[Answer | None], None]) -> Callable[[], object]:
        """Send a request once more, on a connection of its own."""
        listener = self.port.listener
        if step.upstream is not None:
            target = HttpTarget(step.upstream, step.tls)
        else:
            target = HttpTarget(listener.upstream, listener.upstream_tls)

        async def send_again() -> None:
            on_answer(await send_aio(target, request))

        task = asyncio.get_running_loop().create_task(send_again())
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)
        return task.cancel

    def on_done(self, *, closes: bool) -> None:
        """The response that was under way has gone out."""
        self._on_done(closes=closes)

    def cut(self) -> None:
        """The response under way cannot be completed."""
        self._response = self._body = None
        self._awaits_response = False
        self.close()


class _Sockets(SideHost):
    """Tells a connection which of its sides something came from."""

    def __init__(self, connection: HttpConnection) -> None:
        self._connection = connection
        self.memory = connection.memory

    def on_connected(self, side: Side) -> None:
        connection = self._connection
        transport = side.transport
        if side is not connection.downstream or transport is None:
            return
        connection.port.keep_alive(transport)
        if not connection.relay.open.admit(connection):
            side.close()

    def on_data(self, side: Side, data: bytes) -> None:
        connection = self._connection
        if side is connection.downstream:
            connection.on_received(data)
        elif side is connection.upstream:
            connection.on_answered(data)

    def on_half_closed(self, side: Side) -> bool:
        connection = self._connection
        return side is connection.downstream and connection.on_caller_half_closed()

    def on_closed(self, side: Side) -> None:
        connection = self._connection
        if side is connection.downstream:
            connection.on_caller_gone()
        else:
            connection.on_upstream_gone(side)

    def on_paused(self, side: Side, *, is_paused: bool) -> None:
        self._connection.pace()


class _Host(ResponseHost):
    """A connection, as its responses know it."""

    def __init__(self, connection: HttpConnection) -> None:
        self._connection = connection
        self.memory = connection.memory

    def write(self, content: bytes) -> None:
        self._connection.downstream.write(content)

    def closes_after(self, *, replaces: bool = False) -> bool:
        return self._connection.closes_after(replaces=replaces)

    def on_response_done(self, *, closes: bool = False) -> None:
        self._connection.on_done(closes=closes)

    def cut(self) -> None:
        self._connection.cut()

    def submit(self, call: Call, waiting: VerdictCallback) -> None:
        self._connection.relay.batcher.submit(call, waiting)

    def limit(self, call: Call, late: Callable[[], None]) -> TimerHandle | None:
        relay = self._connection.relay
        return None if relay.batcher.inline else relay.limit(call, late)

    def ask(self, step: Ask, request: HttpCall, on_answer: Callable[[Answer | None], None]) -> Callable[[], object]:
        return self._connection.ask(step, request, on_answer)
