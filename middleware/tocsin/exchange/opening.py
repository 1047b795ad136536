"""Which requests of HTTP begin a guarded exchange."""

from __future__ import annotations

from tocsin.errors import ConfigError
from tocsin.exchange.exchange import Exchange
from tocsin.exchange.treatment import Headers
from tocsin.judgement.guard import Guard
from tocsin.protocols.http.routes import Routes
from tocsin.protocols.metadata import joined_values


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
        call = guard.call(match.route, metadata, hint, origin)
        return None if call is None else Exchange(guard, call, metadata)

    def _current(self) -> Routes:
        if self._methods is not self.guard.methods:  # reconfigured
            self._methods = self.guard.methods
            self._routes = Routes(self._methods)
        return self._routes
