"""The processor as its connections know it, and a connection as its streams and the processor know it."""

from __future__ import annotations

import asyncio

from tocsin.ext_proc.context import ProcessorContext
from tocsin.http2.flow_control import SendWindow
from tocsin.judgement.batching import Batcher
from tocsin.memory import MemoryAccount, MemoryBudget
from tocsin.relay.retrier import Retrier


class ProcessorHost:
    """What all connections share besides the context. `asking` are requests under way that are sent once more."""

    LINGER = 0.2  # seconds that a connection without streams stays open for what Envoy sent before it heard of the end

    context: ProcessorContext
    memory: MemoryBudget
    longest_headers: int
    loop: asyncio.AbstractEventLoop
    batcher: Batcher
    retrier: Retrier
    asking: set[asyncio.Task[None]]

    def is_ready(self) -> bool:
        """Whether new calls are welcome."""
        raise NotImplementedError

    def name_connection(self) -> str:
        """What tells a connection from all others of this process."""
        raise NotImplementedError

    def admit(self, connection: ConnectionHost) -> bool:
        """Take note of a new connection; whether there is room for it."""
        raise NotImplementedError

    def on_connection_closed(self, connection: ConnectionHost) -> None:
        """A connection has ended."""
        raise NotImplementedError

    def write_later(self, connection: ConnectionHost) -> None:
        """Write what a connection has put once the batch that is being judged has its verdicts."""
        raise NotImplementedError


class ConnectionHost:
    """One connection of Envoy's. `is_reading`: what is put now is written once all is read."""

    server: ProcessorHost
    name: str
    memory: MemoryAccount
    send_window: SendWindow
    is_greeted: bool
    is_reading: bool
    idle_since: float  # when it last had a stream (time.monotonic)

    @property
    def open_streams(self) -> int:
        """How many exchanges are under way."""
        raise NotImplementedError

    def put(self, frame: bytes) -> None:
        """Write a whole frame, with what else this turn brings."""
        raise NotImplementedError

    def flush(self) -> None:
        """Write what was put."""
        raise NotImplementedError

    def on_stream_ended(self, stream_id: int) -> None:
        """Nothing more is said on a stream, but for what waits."""
        raise NotImplementedError

    def drain(self) -> None:
        """Ask Envoy to go elsewhere with what is new. What it sends meanwhile is served still."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the socket, whatever is under way."""
        raise NotImplementedError

    def cut_off(self, limit: str) -> None:
        """A limit is exceeded: end the connection."""
        raise NotImplementedError
