"""A connection of HTTP/1.1 and its responses, as the parts of a connection know them."""

from __future__ import annotations

from asyncio import TimerHandle
from collections.abc import Callable
from typing import Final

from tocsin.exchange.replies import Reply
from tocsin.http_relay.request import RelayedRequest
from tocsin.judgement.actions import Ask
from tocsin.judgement.batching import VerdictCallback
from tocsin.judgement.call import Call
from tocsin.memory import MemoryAccount
from tocsin.outbound_http import Answer, HttpCall
from tocsin.relay.context import RelayContext, RelayedConnection
from tocsin.relay.listening import Port

MOST_AT_ONCE: Final = 1 << 18  # bytes that a socket gives at most


class RelayedResponse:
    """A response on its way to the caller. At most `slice_size` bytes of its body are read at once."""

    slice_size = MOST_AT_ONCE
    is_begun = False  # something of it is sent
    is_over = False

    def on_head(self) -> None:
        """Its head has come."""
        raise NotImplementedError

    def on_body(self, raw: bytes, content: bytes) -> None:
        """Some of its body has come: the bytes, and what they carry."""
        raise NotImplementedError

    def on_end(self) -> None:
        """All of its body has come."""
        raise NotImplementedError

    def on_lost(self) -> None:
        """The upstream has gone in the middle of it."""
        raise NotImplementedError

    def on_gone(self) -> None:
        """The caller has gone, or nothing more of it is wanted."""
        raise NotImplementedError


class ResponseHost(RelayedConnection):
    """A connection, as the responses that go to its caller know it."""

    memory: MemoryAccount

    def write(self, content: bytes) -> None:
        """Send bytes to the caller."""
        raise NotImplementedError

    def closes_after(self, *, replaces: bool = False) -> bool:
        """Whether the connection ends with this response, whatever that says; `replaces`: it is the relay's own."""
        raise NotImplementedError

    def on_response_done(self, *, closes: bool = False) -> None:
        """All of the response is sent; `closes`: the end of the connection is its end."""
        raise NotImplementedError

    def abort_response(self) -> None:
        """The response cannot be completed: end the connection, so that the caller sees that."""
        raise NotImplementedError

    def submit(self, call: Call, waiting: VerdictCallback) -> None:
        """Judge a call, and tell who waits."""
        raise NotImplementedError

    def limit(self, call: Call, on_deadline: Callable[[], None]) -> TimerHandle | None:
        """The scoring budget of a response that waits; none where its verdict comes at once."""
        raise NotImplementedError

    def ask(self, step: Ask, request: HttpCall, on_answer: Callable[[Answer | None], None]) -> Callable[[], object]:
        """Send a request once more, and tell what came of it; returns what gives up doing so."""
        raise NotImplementedError


class UpstreamHost(ResponseHost):
    """A connection, as its upstream knows it."""

    relay: RelayContext
    port: Port
    request: RelayedRequest | None  # that is under way
    awaits_response: bool  # it is not answered yet
    is_tunnel: bool  # both sides have changed to another protocol, which passes unread

    def answer(self, reply: Reply) -> None:
        """Answer the request that is under way, in place of the upstream."""
        raise NotImplementedError

    def become_tunnel(self, head: bytes, rest: bytes) -> None:
        """Both sides have agreed to speak something else, of which `rest` has come already."""
        raise NotImplementedError

    def pace(self) -> None:
        """Read as fast as the other side takes it."""
        raise NotImplementedError

    @property
    def is_paused(self) -> bool:
        """Whether the caller reads too slowly."""
        raise NotImplementedError
