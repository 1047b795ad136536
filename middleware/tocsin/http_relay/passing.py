"""Responses that nobody judges: they pass as they came."""

from __future__ import annotations

from typing import Final

from tocsin.http_relay.bodies import Body
from tocsin.http_relay.heads import ResponseHead
from tocsin.http_relay.hosts import RelayedResponse, ResponseHost

HOP: Final = frozenset({"connection", "keep-alive"})
CLOSE: Final = [("connection", "close")]


class PassedResponse(RelayedResponse):
    """A response of a route that no model has."""

    def __init__(self, host: ResponseHost, head: ResponseHead, body: Body) -> None:
        self._host = host
        self._head = head
        self._body = body

    def on_head(self) -> None:
        head = self._head
        self.is_begun = True
        changes = head.keeps_alive and self._host.closes_after()
        self._host.write(head.changed(HOP, CLOSE) if changes else head.raw)

    def on_body(self, raw: bytes, content: bytes) -> None:
        self._host.write(raw)

    def on_end(self) -> None:
        self.is_over = True
        if ending := self._body.ending:
            self._host.write(ending)
        self._host.on_response_done()

    def on_lost(self) -> None:
        self.is_over = True
        self._host.abort_response()

    def on_gone(self) -> None:
        self.is_over = True
