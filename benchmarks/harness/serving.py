"""A grpc server on a free port."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import grpc


@contextmanager
def serving(server: grpc.Server) -> Iterator[str]:
    """Where the server, which has its handlers already, listens until the end."""
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()
