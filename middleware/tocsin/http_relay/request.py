"""A request on its way to the upstream: it goes on as it comes, or waits until all of it is there.

It waits where judging takes it, where it may be sent again, and where it may be changed to ask for more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from tocsin.exchange.exchange import Exchange
from tocsin.http_relay.bodies import Body
from tocsin.http_relay.heads import Http1Request
from tocsin.memory import MemoryAccount
from tocsin.outbound_http import HttpCall

UPGRADE: Final = frozenset({"upgrade", "http2-settings", "connection", "keep-alive"})
SHORT: Final = 1 << 16  # bytes of a body
_OF_BODY: Final = frozenset({"content-length", "transfer-encoding", "trailer", "expect", "accept-encoding"})


class Passage(NamedTuple):
    """How a request goes on: `write` takes its bytes, `allow` tells the caller to send its body."""

    write: Callable[[bytes], None]
    allow: Callable[[], None]


class RelayedRequest:
    """A request. `exchange` is None where its route is not guarded. `again`: what may be sent once more; `waits`: none
    of it has gone on; `is_short`: what is left of its body may be dropped rather than the connection.
    """

    def __init__(
        self,
        head: Http1Request,
        body: Body,
        exchange: Exchange | None,
        passage: Passage,
        memory: MemoryAccount,
        *,
        limit: int,
        upgrades: bool,
    ) -> None:
        self.head = head
        self.body = body
        self.exchange = exchange
        self.again: HttpCall | None = None
        self.is_complete = False
        self.is_short = 0 <= head.length <= SHORT and not head.expects_continue
        self._discards = False
        self._passage = passage
        self._memory = memory
        self._limit = limit
        self.waits = exchange is not None and exchange.wants_request
        self._raw: list[bytes] = []
        self._contents: list[bytes] = []
        self._size = 0
        self.upgrades = bool(head.upgrade) and upgrades
        self._unsent_head = b""  # goes on with the part of the body that has come with it
        self._head_as_sent = head.raw
        if head.upgrade and not upgrades:  # it is answered as if it had not asked
            self._head_as_sent = head.changed(UPGRADE, [] if head.keeps_alive else [("connection", "close")])

    def begin(self, *, has_more: bool) -> None:
        """Its head has come; `has_more`: something of its body has come with it, which goes on in the same write."""
        if not self.waits:
            if has_more and not self.body.is_done:
                self._unsent_head = self._head_as_sent
            else:
                self._passage.write(self._head_as_sent)
        elif self.head.expects_continue:
            self._passage.allow()

    def on_body(self, raw: bytes, content: bytes) -> None:
        """Some of its body has come."""
        if self._discards:
            return
        if not self.waits:
            if self._unsent_head:
                raw, self._unsent_head = self._unsent_head + raw, b""
            if raw:
                self._passage.write(raw)
            return
        self._raw.append(raw)
        self._contents.append(content)
        self._size += len(raw)
        self._memory.charge(len(raw))
        if self._size > self._limit:
            self._let_go("too_large", f"the request has more than {self._limit:,} bytes")
        elif self._memory.lacks_room:
            self._let_go("memory", "the request was not kept")

    def on_end(self) -> None:
        """All of its body has come."""
        self.is_complete = True
        if self._discards:
            return
        if not self.waits:
            if ending := self.body.ending:
                self._passage.write(ending)
            return
        assert self.exchange is not None
        self.waits = False
        content = b"".join(self._contents)
        changed = self.exchange.on_request(content)
        head = self.head
        if changed is None:
            self._write_as_it_came(self.body.ending)
        else:
            fields = [("accept-encoding", "identity"), ("content-length", str(len(changed)))]
            removing = _OF_BODY | UPGRADE if head.upgrade else _OF_BODY
            self._passage.write(head.changed(removing, fields) + changed)
        body = content if changed is None else changed
        encoded = changed is None and head.value("content-encoding")
        if not encoded:  # a request made anew is sent without it
            self.again = HttpCall(head.verb, head.target, head.fields, body, 0.0, self._limit)
        self._give_back()

    def _write_as_it_came(self, ending: bytes) -> None:
        head = self.head
        sent = self._head_as_sent
        if head.expects_continue:  # it was told to go on already
            removing = {"expect", *UPGRADE} if head.upgrade and not self.upgrades else {"expect"}
            sent = head.changed(removing)
        self._passage.write(b"".join([sent, *self._raw, ending]))

    def _let_go(self, reason: str, why: str) -> None:
        """It cannot be kept: it goes on as it came, from here on as it comes."""
        assert self.exchange is not None
        self.waits = False
        self.exchange.on_request(None, (reason, why))
        self._write_as_it_came(b"")
        self._give_back()

    def discard(self) -> None:
        """It was answered: what is left of it goes nowhere."""
        self._discards = True
        self._give_back()

    def on_gone(self) -> None:
        """Nothing more of it is wanted."""
        self._give_back()

    def _give_back(self) -> None:
        self._memory.release(self._size)
        self._size = 0
        self._raw.clear()
        self._contents.clear()
