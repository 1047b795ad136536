"""What all connections of HTTP/1.1 share: the routes as they are configured now, and whoever carries a response."""

from __future__ import annotations

from asyncio import TimerHandle
from collections.abc import Callable

from tocsin.exchange.exchange import Exchange
from tocsin.exchange.opening import Exchanges
from tocsin.http_relay.fair_share import FairShare
from tocsin.http_relay.heads import Http1Request
from tocsin.http_relay.paths import RoutePaths, plain_path
from tocsin.judgement.actions import Ask
from tocsin.judgement.batching import VerdictCallback
from tocsin.judgement.call import Call
from tocsin.memory import MemoryAccount
from tocsin.outbound_http import Answer, HttpCall
from tocsin.relay.context import RelayContext, RelayedConnection

MOST_AT_ONCE = 1 << 18  # bytes that a socket gives at most
HEALTH = frozenset({"/health", "/healthz", "/livez", "/readyz", "/ping", "/v2/health/live", "/v2/health/ready"})


class HttpContext:
    """The relay's context, the guarded routes, and what all connections share the time by."""

    def __init__(self, relay: RelayContext) -> None:
        self.relay = relay
        self.share = FairShare()
        self.exchanges = Exchanges(relay.guard)
        self._follow()

    def _follow(self) -> None:
        guard = self.relay.guard
        self._methods = guard.methods
        self.paths = RoutePaths(guard.methods)
        self.names = frozenset([*guard.metadata_keys, *guard.score_keys])  # of header fields that are read

    @property
    def has_routes(self) -> bool:
        """Whether a model is served by a protocol of HTTP."""
        self.refresh()
        return bool(self.paths)

    def refresh(self) -> None:
        """Follow the guard where it was reconfigured."""
        if self._methods is not self.relay.guard.methods:
            self._follow()

    def open(self, head: Http1Request, origin: str, hint: str) -> Exchange | None:
        """The exchange that a request begins; None where no server would find a guarded route at its path."""
        self.refresh()
        exchange = self.exchanges.open(head.verb, head.path, head.fields, origin=origin, hint=hint)
        if exchange is not None:
            return exchange
        verb, _, path = self.paths.spelled(head.verb, head.path).partition(" ")
        return self.exchanges.open(verb, path, head.fields, origin=origin, hint=hint) if verb else None

    def passes_unguarded(self, head: Http1Request) -> bool:
        """Whether a request for a route that no model has may go on."""
        relay = self.relay
        if not relay.refuses_unguarded:
            return True
        allows = relay.allowed_methods.allows
        if allows(head.path) and allows(plain_path(head.path)):  # not by way of `..`
            return True
        return head.path in HEALTH and head.verb in ("GET", "HEAD")


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

    def cut(self) -> None:
        """The response cannot be completed: end the connection, so that the caller sees that."""
        raise NotImplementedError

    def submit(self, call: Call, waiting: VerdictCallback) -> None:
        """Judge a call, and tell who waits."""
        raise NotImplementedError

    def limit(self, call: Call, late: Callable[[], None]) -> TimerHandle | None:
        """The scoring budget of a response that waits; none where its verdict comes at once."""
        raise NotImplementedError

    def ask(self, step: Ask, request: HttpCall, on_answer: Callable[[Answer | None], None]) -> Callable[[], object]:
        """Send a request once more, and tell what came of it; returns what gives up doing so."""
        raise NotImplementedError


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
