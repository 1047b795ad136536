"""An ASGI middleware that judges the responses of a model server's guarded routes."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from tocsin.errors import ConfigError
from tocsin.exchange.opening import Exchanges
from tocsin.inprocess.asgi_exchange import App, Receive, Scope, Send, ServedExchange, path_of, text_fields
from tocsin.judgement.batching import Batcher
from tocsin.judgement.guard import Guard

CONFIG = "TOCSIN_CONFIG"  # in the environment, where a server makes the middleware without arguments


class GuardMiddleware:
    """Judges the responses of guarded routes of an ASGI application, such as one of FastAPI or Starlette.

        app.add_middleware(GuardMiddleware, guard="tocsin.yaml")

    `guard` is a Guard or the file of its configuration; without it, the file that the environment's TOCSIN_CONFIG
    names, for servers that make the middleware themselves (`vllm serve --middleware tocsin.asgi.GuardMiddleware`).

    In annotate and enforce a response of JSON carries its verdict in the header `tocsin-verdict`, a stream of events as
    `stream_verdicts` says. In enforce, what `on_alarm` and `fail` say is done.

    Raises ConfigError where no model of the guard is served by a protocol of HTTP.
    """

    def __init__(self, app: App, guard: Guard | Path | str | None = None) -> None:
        self._app = app
        if guard is None:
            guard = os.environ.get(CONFIG, "")
            if not guard:
                raise ConfigError(f"GuardMiddleware: give it guard=..., or name the configuration's file by {CONFIG}")
        self.guard = guard if isinstance(guard, Guard) else Guard.open(guard)
        self._exchanges = Exchanges(self.guard)
        self._exchanges.require("GuardMiddleware")
        self._batcher: tuple[asyncio.AbstractEventLoop, Batcher] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a connection on to the application; judge the response of a guarded route."""
        exchange = None
        if scope["type"] == "http":
            client = scope.get("client")
            origin = f"{client[0]}:{client[1]}" if client else ""
            headers = text_fields(scope["headers"])
            exchange = self._exchanges.open(scope["method"], path_of(scope), headers, origin=origin)
        if exchange is None:
            await self._app(scope, receive, send)
            return
        await ServedExchange(self._app, exchange, self.batcher, scope, receive, send).run()

    @property
    def batcher(self) -> Batcher:
        """The batcher of the running event loop."""
        running = asyncio.get_running_loop()
        if self._batcher is None or self._batcher[0] is not running:
            self._batcher = running, Batcher(self.guard)
        return self._batcher[1]
