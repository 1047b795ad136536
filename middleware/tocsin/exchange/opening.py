"""Which requests of HTTP begin a guarded exchange."""

from __future__ import annotations

from collections.abc import Mapping

from tocsin.errors import ConfigError
from tocsin.exchange.exchange import Exchange
from tocsin.exchange.treatment import Headers
from tocsin.judgement.call_plan import CallPlan
from tocsin.judgement.guard import Guard
from tocsin.protocols.http.routes import Routes
from tocsin.protocols.metadata import joined_values


class ExchangePlan:
    """How exchanges of a route with the same header fields begin: the plan of their calls, and the fields."""

    def __init__(self, of_calls: CallPlan, metadata: Mapping[str, str]) -> None:
        self.of_calls = of_calls
        self.metadata = metadata


class Exchanges:
    """Makes the exchanges of a guard, and follows its reconfiguration."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self._methods = guard.methods
        self._routes = Routes(guard.methods)

    def require(self, position: str) -> None:
        """Raises ConfigError where no model is served over HTTP, because the position would judge nothing."""
        if not self._current():
            names = ", ".join(f"{name} ({model.config.protocol})" for name, model in self.guard.models.items())
            raise ConfigError(f"{position} judges protocols of HTTP, such as `openai`, and no model has one: {names}")

    def open(self, verb: str, path: str, headers: Headers, *, origin: str = "", hint: str = "") -> Exchange | None:
        """The exchange that begins with these header fields, named in lower case; None where no model guards its route.
        `path` is as it was sent; `origin` names the connection, `hint` the model where the exchange does not tell it.
        """
        plan = self.plan(verb, path, headers)
        return None if plan is None else self.begin(plan, origin, hint)

    def plan(self, verb: str, path: str, headers: Headers) -> ExchangePlan | None:
        """What exchanges that begin alike have in common, until the guard is reconfigured."""
        match = self._current().match(verb, path)
        if match is None:
            return None
        guard = self.guard
        if guard.score_keys:
            headers = list(headers)
            metadata = {**dict(headers), **joined_values(headers, guard.score_keys), **match.captured}
        else:
            metadata = dict(headers)
            metadata.update(match.captured)
        plan = guard.plan(match.route, metadata)
        return None if plan is None else ExchangePlan(plan, metadata)

    def begin(self, plan: ExchangePlan, origin: str, hint: str) -> Exchange:
        """Begin one of these exchanges."""
        return Exchange(self.guard, self.guard.begin(plan.of_calls, hint, origin), plan.metadata)

    def _current(self) -> Routes:
        if self._methods is not self.guard.methods:  # reconfigured
            self._methods = self.guard.methods
            self._routes = Routes(self._methods)
        return self._routes
