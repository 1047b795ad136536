"""A caller's connection that speaks HTTP/1.1, and the upstream connection that goes with it.

Requests are served one after the other: what comes of the next one waits until the response before it is sent.
"""

from __future__ import annotations

import asyncio
from asyncio import TimerHandle
from collections.abc import Callable

from tocsin.exchange.replies import Reply
from tocsin.http_relay.again import SendingAgain
from tocsin.http_relay.bodies import BodyError, body_of
from tocsin.http_relay.context import HttpContext
from tocsin.http_relay.fair_share import Flow
from tocsin.http_relay.heads import HeadError, Http1Request
from tocsin.http_relay.incoming import CallerRequests
from tocsin.http_relay.replies import CONTINUE, refusal, written
from tocsin.http_relay.request import Passage, RelayedRequest
from tocsin.http_relay.sides import Side, SideHost
from tocsin.http_relay.upstream import MOST_BEHIND, UpstreamHost, UpstreamLink
from tocsin.judgement.batching import VerdictCallback
from tocsin.judgement.call import Call
from tocsin.judgement.enforcement import Ask
from tocsin.outbound_http import Answer, HttpCall
from tocsin.relay.listening import Port

MOST_UNREAD = 1 << 16  # bytes of requests that wait for the response before them, or for the upstream
LINGERS = 1.0  # seconds in which a caller that still sends may read why nobody listens


class HttpConnection(UpstreamHost):
    """Both sides, the request that is under way between them, and its response."""

    def __init__(self, context: HttpContext, port: Port) -> None:
        self.context = context
        self.relay = context.relay
        self.name = self.relay.name_connection()
        self.port = port
        self.memory = self.relay.memory.open(self._evicted)
        self.idle_since = self.relay.now()
        self.request: RelayedRequest | None = None
        self.awaits_response = False  # a request is under way, whose response is not sent yet
        self.downstream = Side(_CallerSocket(self))
        self.upstream = UpstreamLink(self, context.share)
        self._unread = CallerRequests()
        self.is_tunnel = False  # the upstream has changed to another protocol
        self._flow = Flow(self._read_slice)
        self._is_behind = False  # something has come that is not read yet, because others have their turn
        self._draining = False
        self._half_closed = False  # the caller writes no more
        self._is_ending = False  # nothing more is read of the caller
        self._again = SendingAgain(port)

    # -- as the relay knows it

    @property
    def open_streams(self) -> int:
        return 1 if self.request is not None or self.is_tunnel else 0

    @property
    def is_greeted(self) -> bool:
        return self.request is not None or self.is_tunnel or not self._unread.received

    def written_after_flush(self) -> None:
        pass

    def leads_to(self, port: object) -> bool:
        side = self.upstream.side
        return port is self.port and side is not None and side.transport is not None

    def retire(self) -> None:
        """Requests follow the configuration as they come."""

    def drain(self) -> None:
        self._draining = True
        if self.request is None and not self.is_tunnel:
            self.close()

    def close(self) -> None:
        self._is_ending = True
        self.downstream.close()
        self.upstream.drop()

    # -- the caller

    def on_received(self, data: bytes) -> None:
        """Bytes of the caller."""
        if self._is_ending:
            return
        if self.is_tunnel:
            if self.upstream.side is not None:
                self.upstream.side.write(data)
            return
        unread = self._unread
        if not unread.received:
            if self.request is None:
                self.idle_since = self.relay.now()
            unread.received = data
        else:
            unread.received += data
        self._is_behind = True
        self.go_on()
        self.pace()

    def go_on(self) -> None:
        """Read what has come of the caller, as far as it is its turn."""
        if self._unread.received:
            self.context.share.wake(self._flow)

    def _read_slice(self) -> bool:
        reads_on = self._read_part()
        if not reads_on:
            self._is_behind = False
            self.pace()
        return reads_on

    def _read_part(self) -> bool:
        """Read a part of what has come; whether there may be another."""
        unread = self._unread
        return bool(unread.received) and not self._is_ending and self._read() and bool(unread.received)

    def _read(self) -> bool:
        """Read the next part of what has come; whether there was one."""
        request = self.request
        if request is None:
            return self._begin()
        if request.is_complete:
            return False  # the next one waits
        unread = self._unread
        try:
            raw, content, unread.received = request.body.feed(unread.received)
        except BodyError as error:
            self.relay.not_understood["malformed"] += 1
            self._refuse_rest(400, "MALFORMED", str(error))
            return False
        request.on_body(raw, content)
        if request.body.is_done:
            request.on_end()
            if not self.awaits_response:
                self._end_request()
        return True

    def _begin(self) -> bool:
        """Read a head, where there is a whole one."""
        try:
            head = self._unread.head(self.context.names, self.relay.longest_headers)
        except HeadError as error:
            is_long = error.status == 431
            if is_long:
                self.relay.limited["headers"] += 1
            else:
                self.relay.not_understood["malformed"] += 1
            self._refuse_rest(error.status, "HEADERS" if is_long else "MALFORMED", str(error))
            return False
        if head is None:
            return False
        if self._draining:
            self.close()
            return False
        self._open(head)
        return True

    def _open(self, head: Http1Request) -> None:
        """A request begins."""
        relay, context = self.relay, self.context
        exchange = context.open(head, self.name, self.port.listener.model)
        relay.calls[exchange is not None] += 1
        body = body_of(head.length, relay.longest_headers)
        upgrades = exchange is None and not relay.fails_closed and "h2c" not in head.upgrade.lower()
        passage = Passage(self.upstream.send, self._allow)
        limit = relay.max_message
        request = RelayedRequest(head, body, exchange, passage, self.memory, limit=limit, upgrades=upgrades)
        self.request = request
        self.awaits_response = True
        if exchange is None and not context.passes_unguarded(head):
            relay.limited["unguarded"] += 1
            self.answer(refusal(403, "UNGUARDED", f"no model guards {head.verb} {head.path}"))
            return
        self.upstream.open()
        request.begin(has_more=bool(self._unread.received))
        if body.is_done:
            request.on_end()

    def _allow(self) -> None:
        self.downstream.write(CONTINUE)

    def answer(self, reply: Reply) -> None:
        request, upstream = self.request, self.upstream
        assert request is not None
        if upstream.response is not None:
            upstream.response.on_gone()
        upstream.forget_response()
        self.downstream.write(written(reply, request.head, closes=self.closes_after(replaces=True)))
        upstream.drop()
        self.on_response_done(closes=False)

    def _refuse_rest(self, status: int, code: str, message: str) -> None:
        """What the caller sends cannot be read, nor what comes behind it: say so where nothing was said, and end."""
        response = self.upstream.response
        says = not self.awaits_response or response is None or not response.is_begun
        self._abandon()
        if says:
            self.downstream.write(written(refusal(status, code, message), None, closes=True))
        self._end()

    def _abandon(self) -> None:
        """Nobody waits for the request that is under way, nor for its response."""
        response, request = self.upstream.response, self.request
        if response is not None:
            if not response.is_over:
                response.on_gone()
        elif request is not None and request.exchange is not None:
            self.relay.guard.on_call_closed(request.exchange.call)
        if request is not None:
            request.on_gone()
        self.upstream.forget_response()
        self.request = None
        self.awaits_response = False

    def _end(self) -> None:
        """Nothing more is read: let the caller read what was written, then close."""
        if self._is_ending:
            return
        self._is_ending = True
        self._unread.received = b""
        self.upstream.drop()
        downstream = self.downstream
        downstream.end_writing()
        downstream.read(reads=True)
        if downstream.transport is not None:
            asyncio.get_running_loop().call_later(LINGERS, downstream.close)

    def on_caller_half_closed(self) -> bool:
        """The caller writes no more; whether its response may still be sent."""
        self._half_closed = True
        while self._is_behind and self._read_part():
            pass
        request, side = self.request, self.upstream.side
        if self.is_tunnel and side is not None:
            side.end_writing()
            return True
        if self._is_ending or request is None or not request.is_complete:
            return False
        if side is not None:  # which may go on, or take it for a caller that has gone away
            side.end_writing()
        return True

    def on_caller_gone(self) -> None:
        """The caller is gone: so is everything of this connection."""
        self._is_ending = True
        self._abandon()
        self._again.give_up()
        self.upstream.drop()
        self.memory.close()
        self.relay.connections.discard(self)

    # -- the upstream

    def become_tunnel(self, head: bytes, rest: bytes) -> None:
        self.relay.not_understood["upgraded"] += 1
        self.is_tunnel = True
        self.downstream.write(head + rest)
        unread, side = self._unread, self.upstream.side
        if unread.received and side is not None:
            side.write(unread.received)
        unread.received = b""
        self.idle_since = self.relay.now()

    # -- a response goes out, and has gone out

    def write(self, content: bytes) -> None:
        self.downstream.write(content)

    def submit(self, call: Call, waiting: VerdictCallback) -> None:
        self.relay.batcher.submit(call, waiting)

    def limit(self, call: Call, late: Callable[[], None]) -> TimerHandle | None:
        return None if self.relay.batcher.inline else self.relay.limit(call, late)

    def ask(self, step: Ask, request: HttpCall, on_answer: Callable[[Answer | None], None]) -> Callable[[], object]:
        return self._again.ask(step, request, on_answer)

    def closes_after(self, *, replaces: bool = False) -> bool:
        request = self.request
        if self._draining or request is None or not request.head.keeps_alive or not self.upstream.keeps:
            return True
        return replaces and not (request.is_complete or request.is_short)

    def on_response_done(self, *, closes: bool = False) -> None:
        request, upstream = self.request, self.upstream
        self.awaits_response = False
        if not upstream.forget_response():  # it was ended before the upstream had
            upstream.drop()
        if request is None:
            return
        if closes or self.closes_after(replaces=upstream.side is None):
            self._end_with(request)
        elif request.is_complete:
            self._end_request()
        elif upstream.side is None:
            request.discard()

    def cut(self) -> None:
        self.upstream.forget_response()
        self.awaits_response = False
        self.close()

    def _end_with(self, request: RelayedRequest) -> None:
        """The connection ends with this response."""
        request.on_gone()
        self.request = None
        if request.is_complete and not self._unread.received:
            self.close()
        else:
            self._end()

    def _end_request(self) -> None:
        """The request is complete, and its response sent: on with the next one."""
        self.request = None
        self.upstream.keeps = True
        self.idle_since = self.relay.now()
        if self._half_closed and not self._unread.received:
            self.close()
        else:
            self.go_on()

    # -- pace and limits

    @property
    def is_paused(self) -> bool:
        return self.downstream.is_paused

    def pace(self) -> None:
        side = self.upstream.side
        if side is not None:
            side.read(reads=not (self.downstream.is_paused or self.upstream.is_full))
        is_full = side is not None and (side.is_paused or side.unsent > MOST_UNREAD)
        waits = is_full or len(self._unread.received) > (MOST_BEHIND if self._is_behind else MOST_UNREAD)
        self.downstream.read(reads=self._is_ending or not waits)

    def _evicted(self) -> None:
        self.relay.limited["memory"] += 1
        self._is_ending = True
        self.upstream.drop()
        self.downstream.abort()


class _CallerSocket(SideHost):
    """A connection, as the caller's socket knows it."""

    def __init__(self, connection: HttpConnection) -> None:
        self._connection = connection
        self.memory = connection.memory

    def on_connected(self, side: Side) -> None:
        connection = self._connection
        if side.transport is None:
            return
        connection.port.keep_alive(side.transport)
        if not connection.relay.open.admit(connection):
            side.close()

    def on_data(self, side: Side, data: bytes) -> None:
        self._connection.on_received(data)

    def on_half_closed(self, side: Side) -> bool:
        return self._connection.on_caller_half_closed()

    def on_closed(self, side: Side) -> None:
        self._connection.on_caller_gone()

    def on_paused(self, side: Side, *, is_paused: bool) -> None:
        self._connection.pace()
        if not is_paused:
            self._connection.upstream.go_on()
