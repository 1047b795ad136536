"""A webhook's receiver for tests, and calls whose responses alarm."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from benchmarks.harness.parts import (
    INFER,
)

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Hook:
    """A webhook's receiver: what came, and the statuses to answer with, 200 after them."""

    def __init__(self, port: int = 0) -> None:
        self.came: list[tuple[dict[str, str], bytes]] = []
        self.statuses: list[int] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.came.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(hook.statuses.pop(0) if hook.statuses else 200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/alarms"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.came]


@contextmanager
def hook(port: int = 0) -> Iterator[Hook]:
    listening = Hook(port)
    yield listening
    listening.server.shutdown()
    listening.server.server_close()


def alarming(relay: Any, calls: int, *, session: str = "", payload: bytes = b"far") -> None:
    metadata = (("traceparent", TRACE), *((("x-session", session),) if session else ()))
    with grpc.insecure_channel(relay if isinstance(relay, str) else relay.target) as channel:
        for _ in range(calls):
            channel.unary_unary(INFER)(payload, metadata=metadata, timeout=60)
