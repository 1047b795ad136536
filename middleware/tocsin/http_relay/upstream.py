"""The upstream connection of a caller's, and the responses that come on it.

It is opened for the first request, and anew for the next where a response was ended before the upstream had ended it.
"""

from __future__ import annotations

import asyncio
from typing import Final

from tocsin.http_relay.bodies import Body, BodyError, OpenBody, body_of
from tocsin.http_relay.heads import HeadError, ResponseHead
from tocsin.http_relay.hosts import RelayedResponse, UpstreamHost
from tocsin.http_relay.incoming import UpstreamResponses
from tocsin.http_relay.passing import PassedResponse
from tocsin.http_relay.replies import refusal
from tocsin.http_relay.request import RelayedRequest
from tocsin.http_relay.response import GuardedResponse
from tocsin.http_relay.sides import Side, SideHost
from tocsin.relay.fair_share import FairShare, Flow

# Bytes that wait for their turn, from which on a socket is read no further: not to read it costs calls of the system.
MOST_BEHIND: Final = 1 << 14


class UpstreamLink(SideHost):
    """An upstream connection. `response` is the one that is under way, `keeps` whether another may follow it here,
    `is_behind` whether something has come that is not read yet, because others have their turn or the caller is slow.
    """

    def __init__(self, host: UpstreamHost, share: FairShare) -> None:
        self.side: Side | None = None
        self.response: RelayedResponse | None = None
        self.keeps = True
        self.is_behind = False
        self.memory = host.memory
        self._host = host
        self._relay = host.relay
        self._connecting: asyncio.Task[None] | None = None
        self._share = share
        self._flow = Flow(self._read_slice)
        self._unread = UpstreamResponses()
        self._body: Body | None = None  # the response's
        self._is_reused = False  # it has answered before

    @property
    def unsent(self) -> int:
        """Bytes that wait for a socket."""
        return 0 if self.side is None else self.side.unsent

    # -- opening and closing

    def open(self) -> None:
        """Connect, where there is no connection."""
        if self.side is None:
            self._is_reused = False
            self._unread = UpstreamResponses()
            self.is_behind = False
            side = self.side = Side(self)
            self._connecting = asyncio.get_running_loop().create_task(self._connect(side))

    def send(self, content: bytes) -> None:
        """Send bytes of a request."""
        self.open()
        if self.side is not None:
            self.side.write(content)

    async def _connect(self, side: Side) -> None:
        relay, port = self._relay, self._host.port
        upstream = port.listener.upstream
        try:
            async with asyncio.timeout(relay.config.connect_timeout.total_seconds()):
                await port.connect_upstream(lambda: side, is_http1=True)
        except TimeoutError:
            self._on_unreachable(side, f"upstream {upstream} did not answer the connection in time")
        except OSError as error:
            why = relay.descriptors.explain(error) or f"upstream {upstream} cannot be reached"
            self._on_unreachable(side, f"{why}: {error.strerror or error}")
        else:
            if side is not self.side:
                side.abort()
            self._host.pace()

    def _on_unreachable(self, side: Side, reason: str) -> None:
        self._relay.upstream_failed(reason)
        self._host.port.doubt_upstream()
        if side is not self.side:
            return
        self.side = None
        request = self._host.request
        if request is None:
            return
        self._give_up_call(request)
        self._host.answer(refusal(503, "UPSTREAM", reason))

    def drop(self) -> None:
        """End the connection, whatever the upstream still sends."""
        side, self.side = self.side, None
        self._forget_unread()
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        if side is not None:
            side.is_closed = True
            side.abort()

    def on_connected(self, side: Side) -> None:
        pass

    def on_half_closed(self, side: Side) -> bool:
        return False

    def on_paused(self, side: Side, *, is_paused: bool) -> None:
        self._host.pace()

    def on_closed(self, side: Side) -> None:
        if side is not self.side:
            return
        while self.is_behind and self._read_part():
            pass
        if side is not self.side:
            return
        self.side = None
        host = self._host
        host.port.doubt_upstream()
        request = host.request
        if host.is_tunnel or request is None:
            host.close()
        elif self._body is not None:
            if isinstance(self._body, OpenBody):
                self._on_complete()
            else:
                self._lose_response()
        elif self.response is None and host.awaits_response and not request.waits:
            self._on_no_answer(request)

    def _on_no_answer(self, request: RelayedRequest) -> None:
        """The upstream has gone without a response."""
        self._give_up_call(request)
        if self._is_reused:  # it closes what is idle: callers know that, and send the request again by themselves
            self._host.close()
            return
        reason = f"upstream {self._host.port.listener.upstream} closed the connection without a response"
        self._relay.upstream_failed(reason)
        self._host.answer(refusal(502, "UPSTREAM", reason))

    def _give_up_call(self, request: RelayedRequest) -> None:
        if request.exchange is not None:
            self._relay.guard.on_call_closed(request.exchange.call)

    # -- responses

    def on_data(self, side: Side, data: bytes) -> None:
        if side is not self.side:  # it was dropped
            return
        host = self._host
        if host.is_tunnel:
            host.write(data)
            return
        if not self._may_answer:
            self._on_desynchronised()
            return
        self._unread.add(data)
        self.is_behind = True
        self._share.wake(self._flow)
        if self.is_full:
            host.pace()

    @property
    def is_full(self) -> bool:
        """Whether so much is not read yet that no more is to come."""
        return self.is_behind and self._unread.size > MOST_BEHIND

    def go_on(self) -> None:
        """The caller has caught up."""
        if self.is_behind:
            self._share.wake(self._flow)

    @property
    def _may_answer(self) -> bool:
        """Whether there is a request whose response may come, or come on."""
        return self._host.awaits_response and (self.response is None or self._body is not None)

    def _read_slice(self) -> bool:
        if not self.is_behind or self._host.is_paused:
            return False
        self.is_behind = self._read_part()
        if not self.is_behind:
            self._host.pace()
        return self.is_behind

    def _read_part(self) -> bool:
        """Read a part of what has come, a head with what follows it; whether there is another."""
        if not self._unread.size or self.side is None:
            return False
        if not self._may_answer:
            self._on_desynchronised()
            return False
        reads_on = self._body is not None or self._read_head()
        if self._body is not None and self._unread.size:
            reads_on = self._read_body(self._body)
        if not self._unread.size:
            self._forget_unread()
            return False
        return reads_on

    def _forget_unread(self) -> None:
        self._unread.forget()
        self.is_behind = False

    def _on_desynchronised(self) -> None:
        """The upstream answers what nobody asked: whose that would be to the next request cannot be known."""
        self._relay.not_understood["malformed"] += 1
        if self._host.request is None or self.response is None:
            self._host.close()
        else:  # the response is there, and waits: the connection is of no use behind it
            self.drop()

    def _read_head(self) -> bool:
        """Read the head of a response, where there is a whole one; whether there was."""
        host, request, unread = self._host, self._host.request, self._unread
        assert request is not None
        try:
            head = unread.head(request.head.verb, self._relay.longest_headers, upgrades=request.upgrades)
        except HeadError as error:
            self._relay.not_understood["malformed"] += 1
            self._give_up_call(request)
            host.answer(refusal(502, "UPSTREAM", str(error)))
            return False
        if head is None:
            return False
        if head.status == 101:
            rest = unread.part(unread.size)
            self._forget_unread()
            host.become_tunnel(head.raw, rest)
            return False
        if head.is_interim:
            if request.head.minor == 1:
                host.write(head.raw)
            return True
        self._begin(request, head)
        return True

    def _begin(self, request: RelayedRequest, head: ResponseHead) -> None:
        """A response begins."""
        self.keeps = head.keeps_alive
        self._is_reused = True
        body = self._body = body_of(head.length, self._relay.longest_headers)
        exchange = request.exchange
        response: RelayedResponse
        if exchange is None:
            response = PassedResponse(self._host, head, body)
        else:
            response = GuardedResponse(self._relay, self._host, exchange, request.head, request.again, head, body)
        self.response = response
        response.on_head()
        if body.is_done:
            self._on_complete()

    def _read_body(self, body: Body) -> bool:
        """Read on in the body of a response; whether there may be more to read."""
        response = self.response
        assert response is not None
        part = self._unread.part(response.slice_size)
        try:
            raw, content, rest = body.feed(part)
        except BodyError:
            self._relay.not_understood["malformed"] += 1
            self._lose_response()
            return False
        self._unread.skip(len(part) - len(rest))
        response.on_body(raw, content)
        if body.is_done and self._body is body:
            self._on_complete()
        return True

    def _on_complete(self) -> None:
        """All of the response has come."""
        response, self._body = self.response, None
        assert response is not None
        if self._unread.size:  # it would be taken for the answer to the next request
            self._relay.not_understood["malformed"] += 1
            self.keeps = False
        self._forget_unread()
        response.on_end()
        if not self.keeps:
            self.drop()

    def _lose_response(self) -> None:
        response, self._body = self.response, None
        self.drop()
        if response is not None:
            response.on_lost()

    def forget_response(self) -> bool:
        """Nothing more is done about the response; whether all of it had come, as far as that was begun."""
        body, self.response, self._body = self._body, None, None
        return body is None or body.is_done
