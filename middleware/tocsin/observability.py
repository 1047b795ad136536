"""What operators connect to: metrics and health over HTTP, health over gRPC."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import grpc
from prometheus_client import CollectorRegistry, make_wsgi_app

from tocsin.config_fields import Address
from tocsin.errors import StartError


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Probes and scrapes come every few seconds: they are not worth a line each."""


class HttpEndpoint:
    """/metrics (Prometheus or OpenMetrics, as asked), /healthz and /readyz, from a thread of its own.

    `ready` tells whether new calls are welcome. Raises StartError when the address cannot be had.
    """

    def __init__(self, address: Address, registry: CollectorRegistry, ready: Callable[[], bool]) -> None:
        metrics: Callable[..., Iterable[bytes]] = make_wsgi_app(registry)

        def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
            path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
            if method not in ("GET", "HEAD"):
                return _plain(start, "405 Method Not Allowed", "only GET")
            if path == "/metrics":
                return metrics(environ, start)
            if path == "/healthz":
                return _plain(start, "200 OK", "alive")
            if path == "/readyz":
                return _plain(start, "200 OK", "ready") if ready() else _plain(start, "503 Draining", "not ready")
            return _plain(start, "404 Not Found", "there is /metrics, /healthz and /readyz")

        try:
            self._server = make_server(address.host, address.port, app, _Server, _Quiet)
        except OSError as error:
            raise StartError(f"metrics: cannot listen on {address}: {error.strerror or error}") from error
        self.address = Address(address.host, self._server.server_port)
        self._thread = threading.Thread(target=self._server.serve_forever, name="tocsin-http", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()


def _plain(start: Callable[..., Any], status: str, text: str) -> Iterable[bytes]:
    content = text.encode() + b"\n"
    start(status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(content)))])
    return [content]


class AdminServer:
    """The gRPC health service (grpc.health.v1), for `` and `tocsin`, and other `handlers`, on a port of its own."""

    def __init__(self, address: Address, handlers: Sequence[Any] = ()) -> None:
        self._address = address
        self._handlers = tuple(handlers)
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Listen and say SERVING. Raises StartError when the address cannot be had."""
        from grpc_health.v1 import health, health_pb2, health_pb2_grpc

        self._servicer = health.aio.HealthServicer()
        self._serving = health_pb2.HealthCheckResponse.SERVING
        self._server = grpc.aio.server()
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, self._server)
        self._server.add_generic_rpc_handlers(self._handlers)
        try:
            port = self._server.add_insecure_port(str(self._address))
        except RuntimeError as error:
            raise StartError(f"admin: cannot listen on {self._address}") from error
        if not self._address.path:
            self._address = Address(self._address.host, port)
        for service in ("", "tocsin"):
            await self._servicer.set(service, self._serving)
        await self._server.start()

    @property
    def address(self) -> Address:
        """Where it listens, with the port that the system chose for port 0."""
        return self._address

    async def drain(self) -> None:
        """Say NOT_SERVING from here on."""
        await self._servicer.enter_graceful_shutdown()

    async def stop(self) -> None:
        """Stop answering."""
        if self._server is not None:
            await self._server.stop(0.2)
