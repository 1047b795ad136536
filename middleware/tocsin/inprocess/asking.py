"""Sending a request once more from inside a program: by the same callable, or to the fallback's address."""

from __future__ import annotations

from typing import Any

import grpc

from tocsin.configuration.fields import Address

_UNBOUNDED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
_channels: dict[str, grpc.Channel] = {}


def ask_fallback(address: Address, method: str, request: bytes, metadata: Any, seconds: float) -> bytes | None:
    """The fallback's response, None when it fails."""
    channel = _channels.get(str(address))
    if channel is None:
        channel = _channels.setdefault(str(address), grpc.insecure_channel(str(address), options=_UNBOUNDED))
    try:
        response: bytes = channel.unary_unary(method)(request, timeout=seconds, metadata=_sendable(metadata))
    except grpc.RpcError:
        return None
    return response


async def ask_fallback_aio(
    address: Address, method: str, request: bytes, metadata: Any, seconds: float
) -> bytes | None:
    """The same in an event loop."""
    async with grpc.aio.insecure_channel(str(address), options=_UNBOUNDED) as channel:
        try:
            response: bytes = await channel.unary_unary(method)(request, timeout=seconds, metadata=_sendable(metadata))
        except grpc.RpcError:
            return None
        return response


def _sendable(metadata: Any) -> Any:
    """A caller's metadata without what grpcio writes itself."""
    own = ("grpc-", ":", "user-agent", "te", "content-type")
    return tuple((key, value) for key, value in metadata or () if not key.startswith(own))
