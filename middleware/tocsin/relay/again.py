"""Asking again: the same request, once more to the same model, or to the fallback that is configured.

Seldom needed, so a client library does it: grpc.aio, on connections of its own.
"""

from __future__ import annotations

import asyncio
import time
from base64 import b64decode
from typing import TYPE_CHECKING

import grpc

from tocsin.config_fields import Address
from tocsin.judgement.call import Call
from tocsin.judgement.policy import WITHHOLDS
from tocsin.listener_config import UpstreamTls

if TYPE_CHECKING:
    from tocsin.relay.holding import HeldStream
    from tocsin.relay.server import Relay

Metadata = list[tuple[str, str | bytes]]

_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_OWN = (":", "grpc-", "te", "content-type", "user-agent", "connection", "host", "content-length")
_UNBOUNDED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Again:
    """Sends requests again for streams whose response is not to go out. Lives in the relay's loop."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._channels: dict[Address, grpc.aio.Channel] = {}

    def start(self, stream: HeldStream, call: Call, action: str) -> asyncio.Task[None]:
        """Ask again for a call, and tell the stream what came of it."""
        request = call.request
        assert request is not None
        asked = Call(call.reads, call.keys, call.trace, call.wants_request)
        asked.request, asked.hint, asked.origin = request, call.hint, call.origin
        asked.verdict, asked.model = call.verdict, call.model
        return asyncio.get_running_loop().create_task(self._ask(stream, call, asked, action))

    async def close(self) -> None:
        """Close the connections."""
        for channel in self._channels.values():
            await channel.close()

    async def _ask(self, stream: HeldStream, call: Call, asked: Call, action: str) -> None:
        model = self._relay.guard.models[call.model]
        ends = _deadline(stream.fields, stream.opened)
        metadata = _metadata(stream.fields)
        response = None
        if action == "retry" and model.config.retry is not None:
            upstream, tls = stream.upstream
            for _ in range(model.policy.tries):
                deadline = model.config.retry.deadline.total_seconds()
                response = await self._once(upstream, tls, asked, metadata, min(deadline, ends - time.monotonic()))
                if response is not None and await self._passes(call, asked, response):
                    break
                response = None
            if response is None:
                action = model.policy.settled("retry")
        if action == "fallback" and model.config.fallback is not None:
            fallback = model.config.fallback
            deadline = fallback.deadline.total_seconds()
            response = await self._once(
                fallback.upstream, None, asked, metadata, min(deadline, ends - time.monotonic())
            )
            if response is None:
                action = model.policy.settled("fallback")
        stream.asked_again(response, action, call)

    async def _passes(self, call: Call, asked: Call, response: bytes) -> bool:
        """Whether a further answer may go out; its verdict becomes the call's."""
        again = Call(asked.reads, asked.keys, asked.trace, asked.wants_request)
        again.request, again.response = asked.request, response
        again.hint, again.origin = asked.hint, asked.origin
        await self._relay.batcher.judged(again)
        verdict = again.verdict
        if verdict is None or verdict.action in WITHHOLDS:
            return False
        call.verdict = verdict
        return True

    async def _once(
        self,
        address: Address,
        tls: UpstreamTls | None,
        asked: Call,
        metadata: Metadata,
        seconds: float,
    ) -> bytes | None:
        """One call's only response, None when it failed."""
        if seconds <= 0:
            return None
        call = self._channel(address, tls).unary_unary(asked.method)(asked.request, timeout=seconds, metadata=metadata)
        try:
            response: bytes = await call
        except grpc.RpcError:
            return None
        return response

    def _channel(self, address: Address, tls: UpstreamTls | None) -> grpc.aio.Channel:
        if address not in self._channels:
            if tls is None:
                self._channels[address] = grpc.aio.insecure_channel(str(address), options=_UNBOUNDED)
            else:
                options = [*_UNBOUNDED, *([("grpc.ssl_target_name_override", tls.name)] if tls.name else [])]
                self._channels[address] = grpc.aio.secure_channel(str(address), _credentials(tls), options=options)
        return self._channels[address]


def _credentials(tls: UpstreamTls) -> grpc.ChannelCredentials:
    ca, key, certificate = (None if path is None else path.read_bytes() for path in (tls.ca, tls.key, tls.certificate))
    return grpc.ssl_channel_credentials(ca, key, certificate)


def _deadline(fields: list[tuple[str, str]], opened: float) -> float:
    """When the deadline of a call that came at `opened` ends (time.monotonic); an hour later where there is none."""
    told = next((value for name, value in fields if name == "grpc-timeout"), "")
    if len(told) < 2 or told[-1] not in _UNITS or not told[:-1].isdigit():
        return opened + 3600.0
    return opened + int(told[:-1]) * _UNITS[told[-1]]


def _metadata(fields: list[tuple[str, str]]) -> Metadata:
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
