"""What a configuration of Tocsin needs of whoever asks its external processor, whichever gateway that is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from tocsin.configuration.config import Config
from tocsin.ext_proc.attach import acting_seconds, fails_closed
from tocsin.judgement.guard import Guard
from tocsin.protocols.http.method import JsonMethod
from tocsin.protocols.http.routes import Routes
from tocsin.relay.method_paths import MethodPaths

_CAPTURE = re.compile(r"\{[a-z_]+\}")


@dataclass(frozen=True)
class ReachableMethod:
    """A method of gRPC or a route of HTTP that a model guards. `path` is an example where the route captures a part."""

    name: str
    path: str
    literal: str  # the path up to what is captured
    is_http: bool
    streams: bool
    requests_stream: bool


@dataclass(frozen=True)
class Needs:
    """What has to come of requests and responses, and what has to go back. Seconds are those that a reply may take."""

    mode: str
    fails_closed: bool  # what cannot be judged must not pass
    asks: bool  # requests of HTTP are changed, and responses changed back
    needs_request: bool
    needs_request_headers: bool
    keys: tuple[str, ...]  # of the request's metadata
    methods: tuple[ReachableMethod, ...]
    max_message: int
    reply_seconds: float
    namespace: str | None
    has_tls: bool
    port: int
    _grpc: MethodPaths
    _routes: Routes

    @classmethod
    def of(cls, config: Config, guard: Guard) -> Self:
        """The needs of a configuration and its guard."""
        models = list(guard.models.values())
        needs_request = guard.reads_requests
        asks = any(model.edits for model in models)
        budgets = [guard.config.budget(name, shares_sessions=False).total_seconds() for name in config.models]
        return cls(
            mode=config.mode,
            fails_closed=fails_closed(config),
            asks=asks,
            needs_request=needs_request,
            needs_request_headers=needs_request or (config.mode == "enforce" and config.unguarded == "refuse"),
            keys=tuple(key for key in guard.metadata_keys if key != "traceparent"),
            methods=tuple(
                _guarded(name, isinstance(method, JsonMethod), method.streams, method.requests_stream)
                for name, method in guard.methods.items()
            ),
            max_message=int(config.max_message),
            reply_seconds=max(budgets, default=0.0) + acting_seconds(config),
            namespace=config.ext_proc_metadata,
            has_tls=config.ext_proc_tls is not None,
            port=config.ext_proc.port if config.ext_proc is not None else 0,
            _grpc=MethodPaths([name for name, method in guard.methods.items() if not isinstance(method, JsonMethod)]),
            _routes=Routes(guard.methods),
        )

    @property
    def observes(self) -> bool:
        """Whether nothing has to go back."""
        return self.mode == "observe" and not self.asks

    @property
    def enforces(self) -> bool:
        return self.mode == "enforce"

    def guards(self, path: str) -> bool:
        """Whether some model guards what is at a path."""
        return bool(self._grpc.method(path)) or self._routes.match("POST", path) is not None


def _guarded(name: str, is_http: bool, streams: bool, requests_stream: bool) -> ReachableMethod:
    path = name.partition(" ")[2] if is_http else name
    return ReachableMethod(name, _CAPTURE.sub("x", path), path.partition("{")[0], is_http, streams, requests_stream)
