"""What all connections of HTTP/1.1 share: the routes as they are configured now, and whoever carries a response."""

from __future__ import annotations

from typing import Final

from tocsin.exchange.exchange import Exchange
from tocsin.exchange.opening import ExchangePlan, Exchanges
from tocsin.http_relay.heads import Http1Request
from tocsin.http_relay.incoming import LONGEST_KEPT_HEAD
from tocsin.http_relay.paths import RoutePaths, plain_path
from tocsin.relay.context import RelayContext
from tocsin.relay.fair_share import FairShare

HEALTH: Final = frozenset({"/health", "/healthz", "/livez", "/readyz", "/ping", "/v2/health/live", "/v2/health/ready"})


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

    def plan(self, head: Http1Request) -> ExchangePlan | None:
        """How the exchange begins that a request does; None where no server would find a guarded route at its path."""
        plan = self.exchanges.plan(head.verb, head.path, head.fields)
        if plan is not None:
            return plan
        verb, _, path = self.paths.spelled(head.verb, head.path).partition(" ")
        return self.exchanges.plan(verb, path, head.fields) if verb else None

    def passes_unguarded(self, head: Http1Request) -> bool:
        """Whether a request for a route that no model has may go on."""
        relay = self.relay
        if not relay.refuses_unguarded:
            return True
        allows = relay.allowed_methods.allows
        if allows(head.path) and allows(plain_path(head.path)):  # not by way of `..`
            return True
        return head.path in HEALTH and head.verb in ("GET", "HEAD")


class ExchangeOpener:
    """Opens the exchanges of one connection, whose requests often begin with the same head."""

    def __init__(self, context: HttpContext) -> None:
        self._context = context
        self._methods = context.relay.guard.methods
        self._head: Http1Request | None = None
        self._plan: ExchangePlan | None = None

    def open(self, head: Http1Request, origin: str, hint: str) -> Exchange | None:
        """The exchange that a request begins; None where no server would find a guarded route at its path."""
        context = self._context
        context.refresh()
        methods = context.relay.guard.methods
        if head is self._head and methods is self._methods:
            plan = self._plan
        else:
            plan = context.plan(head)
            if len(head.raw) <= LONGEST_KEPT_HEAD:
                self._head, self._methods, self._plan = head, methods, plan
        return None if plan is None else context.exchanges.begin(plan, origin, hint)
