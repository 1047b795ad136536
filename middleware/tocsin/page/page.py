"""Serves the page and its live data (server-sent events), in the thread of the metrics port."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from http import HTTPStatus
from importlib import resources
from typing import Any

from tocsin.http_server import Response, text
from tocsin.page.history import History

SNAPSHOT_INTERVAL = 1.0  # seconds between two looks
MAX_WATCHERS = 16  # who may look at a time
ALARM_COUNTS = frozenset(map(str, range(1, 10_000)))  # what `last` may be


class Page:
    """`show` returns what the page shows now, `alarms` those that contain a text, the newest last.

    `history` is closed with the page.
    """

    def __init__(
        self, show: Callable[[], dict[str, Any]], alarms: Callable[[str], list[dict[str, Any]]], history: History
    ) -> None:
        self._show, self._alarms, self._history = show, alarms, history
        self._html = resources.files("tocsin.page").joinpath("index.html").read_bytes()
        self._policy = _policy(self._html.decode())
        self._watchers = 0
        self._ending = False

    def answer(self, path: str, query: Mapping[str, str]) -> Response | None:
        """The response to GET, None for a path that is not the page's. `search` and `last` filter `/alarms`."""
        if path == "/":
            return Response(HTTPStatus.OK, [("Content-Type", "text/html; charset=utf-8"), *self._headers()], self._html)
        if path == "/snapshot":
            return self._json(self._show())
        if path == "/alarms":
            alarms, last = self._alarms(query.get("search", "")), query.get("last", "")
            return self._json(alarms[-int(last) :] if last in ALARM_COUNTS else alarms)
        if path == "/live":
            if self._watchers >= MAX_WATCHERS:
                refused = text(HTTPStatus.SERVICE_UNAVAILABLE, "too many watch already")
                return refused._replace(headers=[*refused.headers, ("Retry-After", "10")])
            return Response(HTTPStatus.OK, [("Content-Type", "text/event-stream"), *self._headers()], self._live())
        return None

    def close(self) -> None:
        """Disconnect everybody who watches."""
        self._ending = True
        self._history.close()

    async def _live(self) -> AsyncGenerator[bytes, None]:
        self._watchers += 1
        try:
            while not self._ending:
                yield b"data: " + json.dumps(self._show(), separators=(",", ":")).encode() + b"\n\n"
                await asyncio.sleep(SNAPSHOT_INTERVAL)
        finally:
            self._watchers -= 1

    def _json(self, content: Any) -> Response:
        body = json.dumps(content).encode()
        return Response(HTTPStatus.OK, [("Content-Type", "application/json"), *self._headers()], body)

    def _headers(self) -> list[tuple[str, str]]:
        return [
            ("Content-Security-Policy", self._policy),
            ("X-Content-Type-Options", "nosniff"),
            ("X-Frame-Options", "DENY"),
            ("Referrer-Policy", "no-referrer"),
            ("Cache-Control", "no-store"),
            ("Date", time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())),
        ]


def _policy(html: str) -> str:
    """A Content-Security-Policy under which only what is in the page itself runs or loads."""
    parts = {"script-src": re.findall(r"<script>(.*?)</script>", html, re.DOTALL)}
    parts["style-src"] = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    lines = [
        f"{name} {' '.join(_hash(part) for part in texts)}" for name, texts in parts.items() if texts
    ]  # fmt: skip
    return "; ".join(
        ["default-src 'none'", *lines, "img-src data:", "connect-src 'self'", "base-uri 'none'", "form-action 'none'"]
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
