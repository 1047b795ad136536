"""What operators look at over HTTP: metrics and health."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from tocsin.configuration.fields import Address
from tocsin.errors import StartError
from tocsin.page.page import Page
from tocsin.sinks.exposition import Exposition


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def handle(self) -> None:
        with suppress(ConnectionError):  # they close the page when they like
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:
        """Probes and scrapes come every few seconds: they are not worth a line each."""


class HttpEndpoint:
    """/metrics (Prometheus or OpenMetrics, as asked), /healthz and /readyz, from a thread of its own; and the page.

    `ready` tells whether new calls are welcome. Raises StartError when the address cannot be had.
    """

    def __init__(
        self, address: Address, metrics: Exposition, ready: Callable[[], bool], page: Page | None = None
    ) -> None:
        def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
            path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
            if method not in ("GET", "HEAD"):
                return _plain(start, "405 Method Not Allowed", "only GET")
            if path == "/metrics":
                told, content = metrics.answer(environ.get("HTTP_ACCEPT", ""), environ.get("HTTP_ACCEPT_ENCODING", ""))
                start("200 OK", [*told, ("Content-Length", str(len(content)))])
                return [content]
            if path == "/healthz":
                return _plain(start, "200 OK", "alive")
            if path == "/readyz":
                return _plain(start, "200 OK", "ready") if ready() else _plain(start, "503 Draining", "not ready")
            if page is not None and (answer := page.answer(path, start)) is not None:
                return answer
            return _plain(start, "404 Not Found", "there is /metrics, /healthz and /readyz")

        try:
            self._server = make_server(address.host, address.port, app, _Server, _Quiet)
        except OSError as error:
            raise StartError(f"metrics: cannot listen on {address}: {error.strerror or error}") from error
        self._page = page
        self.address = Address(address.host, self._server.server_port)
        self._thread = threading.Thread(target=self._server.serve_forever, name="tocsin-http", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering."""
        if self._page is not None:
            self._page.close()
        self._server.shutdown()
        self._server.server_close()


def _plain(start: Callable[..., Any], status: str, text: str) -> Iterable[bytes]:
    content = text.encode() + b"\n"
    start(status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(content)))])
    return [content]
