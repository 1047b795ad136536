"""Asking again: the same request, once more to the same model, or to the fallback that is configured; and asking a
model to stop.

Seldom needed, so a client library does it: grpc.aio, on connections of its own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from base64 import b64decode
from collections.abc import Sequence
from typing import TYPE_CHECKING

import grpc

from tocsin.channels import open_aio_channel
from tocsin.configuration.fields import Address
from tocsin.configuration.listener import UpstreamTls
from tocsin.judgement.acting import Acting, Ask, Judge
from tocsin.judgement.call import Call
from tocsin.judgement.policy import failed_closed

if TYPE_CHECKING:
    from tocsin.relay.holding import HeldStream
    from tocsin.relay.server import Relay

log = logging.getLogger("tocsin")

Metadata = list[tuple[str, str | bytes]]

STOPPING = 5.0  # seconds that telling an upstream to stop may take

_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_OWN = (":", "grpc-", "te", "content-type", "user-agent", "connection", "host", "content-length")


class Again:
    """Sends requests again for streams whose response is not to go out. Lives in the relay's loop."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._channels: dict[Address, grpc.aio.Channel] = {}
        self._stopping: set[asyncio.Task[bytes | None]] = set()

    def start(
        self, stream: HeldStream, call: Call, request: bytes, steps: Acting, first: Ask | Judge
    ) -> asyncio.Task[None]:
        """Do these steps for a call with that request, and tell the stream what came of them."""
        return asyncio.get_running_loop().create_task(self._run(stream, call, request, steps, first))

    def stop(self, stream: HeldStream, request: bytes) -> None:
        """Tell the upstream that the answer to this request is not wanted any more, where its protocol has a call."""
        told = stream.guarded.reads.stop(request)
        if told is not None:
            task = asyncio.get_running_loop().create_task(self._once(*stream.upstream, *told, [], STOPPING))
            self._stopping.add(task)
            task.add_done_callback(self._stopping.discard)

    async def close(self) -> None:
        """Close the connections."""
        for channel in self._channels.values():
            await channel.close()

    async def _run(self, stream: HeldStream, call: Call, request: bytes, steps: Acting, step: Ask | Judge) -> None:
        try:
            while True:
                step = steps.send(await self._do(stream, call, request, step))
        except StopIteration as done:
            stream.acted(done.value, call)
        except Exception as error:
            log.error("model %s: asking again failed: %s: %s", call.model, type(error).__name__, error)
            stream.acted(failed_closed(call.verdict), call)

    async def _do(self, stream: HeldStream, call: Call, request: bytes, step: Ask | Judge) -> bytes | None:
        if isinstance(step, Judge):
            step.call.request = request
            await self._relay.batcher.judged(step.call)
            return None
        seconds = min(step.seconds, _deadline(stream.fields, stream.opened) - time.monotonic())
        upstream, tls = (step.upstream, step.tls) if step.upstream is not None else stream.upstream
        return await self._once(upstream, tls, call.method, request, _metadata(stream.fields), seconds)

    async def _once(
        self,
        address: Address,
        tls: UpstreamTls | None,
        method: str,
        request: bytes,
        metadata: Metadata,
        seconds: float,
    ) -> bytes | None:
        """One call's only response, None when it failed."""
        if seconds <= 0:
            return None
        try:
            channel = self._channel(address, tls)
            response: bytes = await channel.unary_unary(method)(request, timeout=seconds, metadata=metadata)
        except grpc.RpcError:
            return None
        except OSError as error:
            log.error("%s cannot be asked: %s: %s", address, error.filename, error.strerror)
            return None
        return response

    def _channel(self, address: Address, tls: UpstreamTls | None) -> grpc.aio.Channel:
        if address not in self._channels:
            self._channels[address] = open_aio_channel(address, tls)
        return self._channels[address]


def _deadline(fields: Sequence[tuple[str, str]], opened: float) -> float:
    """When the deadline of a call that came at `opened` ends (time.monotonic); an hour later where there is none."""
    told = next((value for name, value in fields if name == "grpc-timeout"), "")
    if len(told) < 2 or told[-1] not in _UNITS or not told[:-1].isdigit():
        return opened + 3600.0
    return opened + int(told[:-1]) * _UNITS[told[-1]]


def _metadata(fields: Sequence[tuple[str, str]]) -> Metadata:
    """The caller's own metadata, as grpcio wants it."""
    found: Metadata = []
    for name, value in fields:
        if name.startswith(_OWN):
            continue
        found.append((name, _binary(value) if name.endswith("-bin") else value))
    return found


def _binary(value: str) -> bytes:
    if value.startswith("\0"):  # as it is, where both peers have said that they understand it
        return value[1:].encode("latin-1")
    return b64decode(value + "=" * (-len(value) % 4))
