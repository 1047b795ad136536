"""What operators read over HTTP: metrics, health, and the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from http import HTTPStatus

from prometheus_client import CollectorRegistry

from tocsin.configuration.config import Config
from tocsin.configuration.fields import Address
from tocsin.errors import StartError
from tocsin.events.alarm import Event
from tocsin.http_server import HttpServer, Request, Response, text
from tocsin.page.history import History
from tocsin.page.page import Page
from tocsin.page.snapshot import shown, snapshot
from tocsin.sinks.exposition import Exposition
from tocsin.sinks.prometheus import PrometheusSink
from tocsin.sockets import BoundSocket


def open_endpoint(
    config: Config,
    metrics: PrometheusSink,
    others: CollectorRegistry,
    latest: Sequence[Event],
    *,
    is_ready: Callable[[], bool],
    mode: Callable[[], str],
) -> HttpEndpoint | None:
    """Open the endpoint of a configuration, with its page where that is configured; None where `metrics` is null.

    `others` are metrics besides those of verdicts, `latest` the alarms that the page shows, and `mode` returns the mode
    in force. Raises StartError.
    """
    if config.metrics is None:
        return None
    page = None
    if config.page:
        history = History(metrics.counts)
        page = Page(lambda: snapshot(metrics, latest, history, mode()), lambda text: shown(latest, text), history)
    return HttpEndpoint(config.metrics, Exposition(metrics, others), is_ready, page)


class HttpEndpoint:
    """Serves /metrics (Prometheus or OpenMetrics, by content negotiation), /healthz, /readyz and the page, in its own
    thread.

    `ready` says whether new calls are accepted. Raises StartError when the address is not available.
    """

    def __init__(
        self, address: Address, metrics: Exposition, ready: Callable[[], bool], page: Page | None = None
    ) -> None:
        self._metrics, self._ready, self._page = metrics, ready, page
        try:
            bound = BoundSocket(address)
            self._server = HttpServer(bound, self._answer)
        except OSError as error:
            raise StartError(f"metrics: cannot listen on {address}: {error.strerror or error}") from error
        self.address = bound.address

    @property
    def url(self) -> str:
        """Its address, to show to people: http://HOST:PORT, or unix:/PATH."""
        return str(self.address) if self.address.path else f"http://{self.address}"

    def close(self) -> None:
        """Stop answering."""
        if self._page is not None:
            self._page.close()
        self._server.close()

    def _answer(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            return text(HTTPStatus.METHOD_NOT_ALLOWED, "only GET")
        if request.path == "/metrics":
            content_type, content = self._metrics.answer(
                request.headers.get("accept", ""), request.headers.get("accept-encoding", "")
            )
            return Response(HTTPStatus.OK, content_type, content)
        if request.path == "/healthz":
            return text(HTTPStatus.OK, "alive")
        if request.path == "/readyz":
            if self._ready():
                return text(HTTPStatus.OK, "ready")
            return text(HTTPStatus.SERVICE_UNAVAILABLE, "not ready")
        if self._page is not None and (answer := self._page.answer(request.path, request.query)) is not None:
            return answer
        return text(HTTPStatus.NOT_FOUND, "there is /metrics, /healthz and /readyz")
