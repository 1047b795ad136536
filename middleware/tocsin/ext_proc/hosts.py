"""Interfaces: the processor as its connections see it, and a connection as its streams and the processor see it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from tocsin.ext_proc.context import ProcessorContext, WaitingResponse
from tocsin.http2.send_window import SendWindow
from tocsin.judgement.batching import Batcher
from tocsin.memory import MemoryAccount, MemoryBudget
from tocsin.relay.fair_share import FairShare
from tocsin.relay.retrier import Retrier


class ProcessorHost:
    """What all connections share besides the context. `asking` holds the requests that are being sent once more.
    `is_awaited`: a connection of which nothing more is to be read waits for the current batch.
    """

    LINGER = 0.2  # seconds that a connection without streams stays open for what Envoy sent before it heard of the end

    context: ProcessorContext
    memory: MemoryBudget
    share: FairShare
    longest_headers: int
    loop: asyncio.AbstractEventLoop
    batcher: Batcher
    retrier: Retrier
    asking: set[asyncio.Task[None]]
    is_awaited: bool

    def is_ready(self) -> bool:
        """Whether new calls are accepted."""
        raise NotImplementedError

    def name_connection(self) -> str:
        """A name for a new connection, unique in this process."""
        raise NotImplementedError

    def admit(self, connection: ConnectionHost) -> bool:
        """Add a new connection if there is room for it; whether there is."""
        raise NotImplementedError

    def on_connection_closed(self, connection: ConnectionHost) -> None:
        """A connection has ended."""
        raise NotImplementedError

    def go_on_later(self, waiting: WaitingResponse) -> None:
        """Call back a response once the current batch is judged."""
        raise NotImplementedError

    def write_later(self, connection: ConnectionHost) -> None:
        """Write what a connection has put once the current batch is judged."""
        raise NotImplementedError


class ConnectionHost:
    """One connection from Envoy. While `is_reading`, what is put is written only behind what is read in this turn."""

    __slots__ = ()

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

    def on_submitted(self) -> None:
        """A response of one of its streams waits to be judged."""
        raise NotImplementedError

    def put(self, frame: bytes) -> None:
        """Queue a whole frame, to be written with everything else of this turn of the loop."""
        raise NotImplementedError

    def flush(self) -> None:
        """Write what was put."""
        raise NotImplementedError

    def work(self, steps: Iterator[None], size: int) -> None:
        """Take these steps, which keep so many bytes, as far as each turn allows, before anything else that has come is
        handled: further steps that one of them asks for, and then the rest.
        """
        raise NotImplementedError

    def on_stream_ended(self, stream_id: int) -> None:
        """Nothing more is sent on a stream, except what waits for its window."""
        raise NotImplementedError

    def drain(self) -> None:
        """Send GOAWAY, so that Envoy opens another connection. What it still sends here is served."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the socket, even with exchanges under way."""
        raise NotImplementedError

    def cut_off(self, limit: str) -> None:
        """A limit is exceeded: end the connection."""
        raise NotImplementedError
