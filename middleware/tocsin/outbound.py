"""Calls that Tocsin makes: a guarded request sent once more, to the same model or to a fallback.

Such calls are rare, so grpc or grpc.aio makes them, on connections of their own. Every position sends the same: the
caller's metadata without the entries that belong to its connection.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from base64 import b64decode
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import grpc

from tocsin.channels import open_aio_channel, open_channel
from tocsin.configuration.fields import Address
from tocsin.configuration.listener import UpstreamTls
from tocsin.judgement.actions import Ask

log = logging.getLogger("tocsin")

Metadata = Sequence[tuple[str, str | bytes]]

# What belongs to one connection or is written by the client library itself (gRPC over HTTP/2; RFC 9113, 8.2.2).
CONNECTION_METADATA = frozenset(
    {
        "accept-encoding", "connection", "content-length", "content-type", "grpc-accept-encoding", "grpc-encoding",
        "grpc-internal-encoding-request", "grpc-message-type", "grpc-previous-rpc-attempts", "grpc-timeout", "host",
        "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade", "user-agent",
    }
)  # fmt: skip

_NAME = re.compile(r"[0-9a-z_.-]+")


class Target(NamedTuple):
    """Where a call goes. Calls with the same address and TLS share a channel."""

    address: Address
    tls: UpstreamTls | None = None

    @property
    def key(self) -> tuple[str, str]:
        """Identifies the channel."""
        return str(self.address), "" if self.tls is None else self.tls.model_dump_json()


class Sending(NamedTuple):
    """A call to make: method, request bytes, metadata, how many seconds it may take, whether its response is a stream,
    and how many bytes of response may be kept.
    """

    method: str
    request: bytes
    metadata: Metadata
    seconds: float
    streams: bool
    limit: int


def sending_of(step: Ask, metadata: Metadata, seconds: float, limit: int) -> Sending:
    """The request of a call once more, as the step `Ask` says, within its seconds."""
    return Sending(step.call.method, step.request, metadata, seconds, step.call.reads.streams, limit)


def forward_metadata(metadata: Iterable[tuple[str, str | bytes]] | None) -> list[tuple[str, str | bytes]]:
    """The entries of a caller's metadata that are sent with another call for the same request."""
    return [
        (key, value)
        for key, value in metadata or ()
        if key.lower() not in CONNECTION_METADATA and not key.startswith(":")
    ]


def forward_fields(fields: Iterable[tuple[str, str]]) -> list[tuple[str, str | bytes]]:
    """The same for header fields as they were on the wire. Fields that a client library refuses to send are left out:
    names and values with characters that gRPC forbids, and values of `-bin` keys that cannot be decoded.
    """
    forwarded: list[tuple[str, str | bytes]] = []
    for name, value in forward_metadata(fields):
        assert isinstance(value, str)
        if not _NAME.fullmatch(name):
            continue
        if not name.endswith("-bin"):
            if value.isascii() and (value.isprintable() or not value):
                forwarded.append((name, value))
        elif value.startswith("\0"):  # as it is, where both peers have said that they understand it
            forwarded.append((name, value[1:].encode("latin-1")))
        else:
            forwarded += [(name, content) for part in value.split(",") if (content := _binary(part)) is not None]
    return forwarded


class Budget(Protocol):
    """How many bytes this call and all others may still keep."""

    remaining: int


class Channels:
    """Channels of grpc, opened when first needed. Safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._channels: dict[tuple[str, str], grpc.Channel] = {}

    def send(self, target: Target, sending: Sending) -> list[bytes] | None:
        """Every message of the response, None when the call failed or answered more than may be kept."""
        if sending.seconds <= 0:
            return None
        responses = _Responses(sending)
        try:
            channel, more = self._channel(target), _options(sending)
            if not sending.streams:
                responses.add(channel.unary_unary(sending.method)(sending.request, **more))
                return responses.all
            call = channel.unary_stream(sending.method)(sending.request, **more)
            for response in call:
                if not responses.add(response):
                    call.cancel()
                    break
            return responses.all
        except Exception as error:  # grpcio raises several kinds for what it cannot send
            _report(target, error)
            return None

    def _channel(self, target: Target) -> grpc.Channel:
        key = target.key
        with self._lock:
            if key not in self._channels:
                self._channels[key] = open_channel(*target)
            return self._channels[key]


class AioChannels:
    """The same for one event loop. Responses under way are charged to `budget`."""

    def __init__(self, budget: Budget | None = None) -> None:
        self._budget = budget
        self._channels: dict[tuple[str, str], grpc.aio.Channel] = {}

    async def send(self, target: Target, sending: Sending) -> list[bytes] | None:
        """Every message of the response, None when the call failed or answered more than may be kept."""
        if sending.seconds <= 0:
            return None
        responses = _Responses(sending, self._budget)
        try:
            channel, more = self._channel(target), _options(sending)
            if not sending.streams:
                responses.add(await channel.unary_unary(sending.method)(sending.request, **more))
                return responses.all
            call = channel.unary_stream(sending.method)(sending.request, **more)
            async for response in call:
                if not responses.add(response):
                    call.cancel()
                    break
            return responses.all
        except Exception as error:  # grpcio raises several kinds for what it cannot send
            _report(target, error)
            return None
        finally:
            responses.release()

    async def close(self) -> None:
        """Close the connections."""
        for channel in self._channels.values():
            await channel.close()

    def _channel(self, target: Target) -> grpc.aio.Channel:
        key = target.key
        if key not in self._channels:
            self._channels[key] = open_aio_channel(*target)
        return self._channels[key]


channels = Channels()  # of this program
_of_loops: dict[asyncio.AbstractEventLoop, AioChannels] = {}


def aio_channels() -> AioChannels:
    """The channels of the running event loop. Those of loops that have ended are dropped."""
    running = asyncio.get_running_loop()
    channels = _of_loops.get(running)
    if channels is None:
        for loop in [loop for loop in list(_of_loops) if loop.is_closed()]:
            _of_loops.pop(loop, None)
        channels = _of_loops[running] = AioChannels()
    return channels


class _Responses:
    """The messages of one response, as far as the limits allow."""

    def __init__(self, sending: Sending, budget: Budget | None = None) -> None:
        self._limit, self._budget = sending.limit, budget
        self._size = 0
        self._fits = True
        self._messages: list[bytes] = []

    def add(self, message: bytes) -> bool:
        """Keep a message; whether there was room."""
        size, budget = len(message), self._budget
        # The budget is never overdrawn for it: whoever keeps most would be cut off for what is no connection's.
        self._fits = self._size + size <= self._limit and (budget is None or budget.remaining >= size)
        if self._fits:
            self._size += size
            self._messages.append(message)
            if budget is not None:
                budget.remaining -= size
        return self._fits

    @property
    def all(self) -> list[bytes] | None:
        """All messages, None where there was no room for one."""
        return self._messages if self._fits else None

    def release(self) -> None:
        """The caller of `send` charges them from here on."""
        if self._budget is not None:
            self._budget.remaining += self._size


def _options(sending: Sending) -> dict[str, object]:
    return {"timeout": sending.seconds, "metadata": tuple(sending.metadata)}


def _report(target: Target, error: Exception) -> None:
    if isinstance(error, grpc.RpcError):
        return  # it is counted by what is done instead
    reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
    log.error("%s cannot be asked: %s", target.address, reason)


def _binary(value: str) -> bytes | None:
    try:
        return b64decode(value.strip() + "=" * (-len(value.strip()) % 4))
    except ValueError:
        return None
