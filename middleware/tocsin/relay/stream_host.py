"""A connection, as its streams know it."""

from __future__ import annotations

from tocsin.configuration.fields import Address
from tocsin.configuration.listener import UpstreamTls
from tocsin.judgement.batching import VerdictCallback
from tocsin.judgement.call import Call
from tocsin.memory import MemoryAccount
from tocsin.relay.context import RelayContext, RelayedConnection


class StreamHost(RelayedConnection):
    """A connection, as its streams know it.

    `largest_frame` and `largest_list` are what the client takes: bytes of a frame, and of a header list.
    """

    __slots__ = ()

    context: RelayContext
    memory: MemoryAccount
    upstream_address: Address
    upstream_tls: UpstreamTls | None
    largest_frame: int
    largest_list: int

    def submit(self, call: Call, waiting: VerdictCallback) -> bool:
        """Judge a response; whether that happens within a few turns of the loop: what follows is written after it."""
        raise NotImplementedError

    def release_trailers(self, stream_id: int, held: list[bytes]) -> None:
        """A stream's held frames may go: it has ended."""
        raise NotImplementedError

    def replaced(self, stream_id: int, *, upstream_ended: bool) -> None:
        """The relay has ended a stream towards the client; the upstream's part of it is not wanted any more."""
        raise NotImplementedError

    def on_response_done(self, stream_id: int) -> None:
        """A held stream has put its last, or has queued it; it is written with what else is put in this turn."""
        raise NotImplementedError

    def write_upstream(self) -> None:
        """Something was put for the upstream: write it."""
        raise NotImplementedError

    def flush_after_batch(self) -> None:
        """A verdict let something go to the client: write it once for all verdicts of the batch."""
        raise NotImplementedError

    def request_flush(self) -> None:
        """Something was put for the client: write it, unless verdicts of this batch are still to come."""
        raise NotImplementedError
