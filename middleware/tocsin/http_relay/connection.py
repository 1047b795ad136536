"""A caller's connection that speaks HTTP/1.1, and the upstream connection that goes with it.

Requests are served one after the other: what comes of the next one waits until the response before it is sent.
"""

from __future__ import annotations

import asyncio
from asyncio import TimerHandle
from collections.abc import Callable
from typing import Final

from tocsin.exchange.replies import Reply
from tocsin.http_relay.again import SendingAgain
from tocsin.http_relay.bodies import body_of
from tocsin.http_relay.caller_reader import CallerReader
from tocsin.http_relay.caller_socket import CallerSocket, SocketOwner
from tocsin.http_relay.context import ExchangeOpener, HttpContext
from tocsin.http_relay.heads import Http1Request
from tocsin.http_relay.replies import CONTINUE, refusal, written
from tocsin.http_relay.request import Passage, RelayedRequest
from tocsin.http_relay.sides import Side
from tocsin.http_relay.upstream import MOST_BEHIND, UpstreamLink
from tocsin.judgement.actions import Ask
from tocsin.judgement.batching import VerdictCallback
from tocsin.judgement.call import Call
from tocsin.outbound_http import Answer, HttpCall
from tocsin.relay.listening import Port

MOST_UNREAD: Final = 1 << 16  # bytes of requests that wait for the response before them, or for the upstream
LINGERS: Final = 1.0  # seconds in which a caller that still sends may read why nobody listens


class HttpConnection(SocketOwner):
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
        self.downstream = Side(CallerSocket(self))
        self.upstream = UpstreamLink(self, context.share)
        self._passage = Passage(self.upstream.send, self._allow)
        self.is_tunnel = False  # the upstream has changed to another protocol
        self._requests = CallerReader(self, context)
        self._opener = ExchangeOpener(context)
        self.is_draining = False
        self._half_closed = False  # the caller writes no more
        self._again = SendingAgain(port)

    # -- as the relay knows it

    @property
    def open_streams(self) -> int:
        return 1 if self.request is not None or self.is_tunnel else 0

    @property
    def is_greeted(self) -> bool:
        return self.request is not None or self.is_tunnel or not self._requests.unread

    def written_after_flush(self) -> None:
        pass

    def leads_to(self, port: object) -> bool:
        side = self.upstream.side
        return port is self.port and side is not None and side.transport is not None

    def retire(self) -> None:
        """Requests follow the configuration as they come."""

    def drain(self) -> None:
        self.is_draining = True
        if self.request is None and not self.is_tunnel:
            self.close()

    def close(self) -> None:
        self._requests.has_ended = True
        self.downstream.close()
        self.upstream.drop()

    # -- the caller

    def on_received(self, data: bytes) -> None:
        if self._requests.has_ended:
            return
        if self.is_tunnel:
            if self.upstream.side is not None:
                self.upstream.side.write(data)
            return
        requests = self._requests
        if self.request is None and not requests.unread:
            self.idle_since = self.relay.now()
        requests.add(data)
        requests.go_on()
        if requests.is_behind and len(requests.unread) > MOST_BEHIND:  # else it keeps pace when it has read all
            self.pace()

    def open_request(self, head: Http1Request) -> None:
        relay, context = self.relay, self.context
        exchange = self._opener.open(head, self.name, self.port.listener.model)
        relay.calls[exchange is not None] += 1
        body = body_of(head.length, relay.longest_headers)
        upgrades = exchange is None and not relay.fails_closed and "h2c" not in head.upgrade.lower()
        limit = relay.max_message
        request = RelayedRequest(head, body, exchange, self._passage, self.memory, limit=limit, upgrades=upgrades)
        self.request = request
        self.awaits_response = True
        if exchange is None and not context.passes_unguarded(head):
            relay.limited["unguarded"] += 1
            self.answer(refusal(403, "UNGUARDED", f"no model guards {head.verb} {head.path}"))
            return
        self.upstream.open()
        request.begin(has_more=bool(self._requests.unread))
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

    def refuse_rest(self, status: int, code: str, message: str) -> None:
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
        if self._requests.has_ended:
            return
        self._requests.has_ended = True
        self._requests.take_unread()
        self.upstream.drop()
        downstream = self.downstream
        downstream.end_writing()
        downstream.read(reads=True)
        if downstream.transport is not None:
            asyncio.get_running_loop().call_later(LINGERS, downstream.close)

    def on_caller_half_closed(self) -> bool:
        self._half_closed = True
        self._requests.read_all()
        request, side = self.request, self.upstream.side
        if self.is_tunnel and side is not None:
            side.end_writing()
            return True
        if self._requests.has_ended or request is None or not request.is_complete:
            return False
        if side is not None:  # which may go on, or take it for a caller that has gone away
            side.end_writing()
        return True

    def on_caller_gone(self) -> None:
        self._requests.has_ended = True
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
        unread, side = self._requests.take_unread(), self.upstream.side
        if unread and side is not None:
            side.write(unread)
        self.idle_since = self.relay.now()

    # -- a response goes out, and has gone out

    def write(self, content: bytes) -> None:
        self.downstream.write(content)

    def submit(self, call: Call, waiting: VerdictCallback) -> None:
        self.relay.batcher.submit(call, waiting)

    def limit(self, call: Call, on_deadline: Callable[[], None]) -> TimerHandle | None:
        return None if self.relay.batcher.inline else self.relay.limit(call, on_deadline)

    def ask(self, step: Ask, request: HttpCall, on_answer: Callable[[Answer | None], None]) -> Callable[[], object]:
        return self._again.ask(step, request, on_answer)

    def closes_after(self, *, replaces: bool = False) -> bool:
        request = self.request
        if self.is_draining or request is None or not request.head.keeps_alive or not self.upstream.keeps:
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
            self.end_request()
        elif upstream.side is None:
            request.discard()

    def abort_response(self) -> None:
        self.upstream.forget_response()
        self.awaits_response = False
        self.close()

    def _end_with(self, request: RelayedRequest) -> None:
        """The connection ends with this response."""
        request.on_gone()
        self.request = None
        if request.is_complete and not self._requests.unread:
            self.close()
        else:
            self._end()

    def end_request(self) -> None:
        self.request = None
        self.upstream.keeps = True
        self.idle_since = self.relay.now()
        if self._half_closed and not self._requests.unread:
            self.close()
        else:
            self._requests.go_on()

    # -- pace and limits

    def on_caller_paused(self, *, is_paused: bool) -> None:
        self.pace()
        if not is_paused:
            self.upstream.go_on()

    @property
    def is_paused(self) -> bool:
        return self.downstream.is_paused

    def pace(self) -> None:
        side = self.upstream.side
        if side is not None:
            side.read(reads=not (self.downstream.is_paused or self.upstream.is_full))
        is_full = side is not None and (side.is_paused or side.unsent > MOST_UNREAD)
        waits = is_full or len(self._requests.unread) > (MOST_BEHIND if self._requests.is_behind else MOST_UNREAD)
        self.downstream.read(reads=self._requests.has_ended or not waits)

    def _evicted(self) -> None:
        self.relay.limited["memory"] += 1
        self._requests.has_ended = True
        self.upstream.drop()
        self.downstream.abort()
