"""Sending a request once more from inside a program: by the same callable, or to the fallback's address."""

from __future__ import annotations

import logging
from typing import Any

import grpc

from tocsin.channels import open_aio_channel, open_channel
from tocsin.judgement.acting import Ask

log = logging.getLogger("tocsin")

_channels: dict[str, grpc.Channel] = {}


def ask_fallback(step: Ask, method: str, request: bytes, metadata: Any, seconds: float) -> bytes | None:
    """The fallback's response, None when it fails."""
    assert step.upstream is not None
    try:
        channel = _channels.get(str(step.upstream))
        if channel is None:
            channel = _channels.setdefault(str(step.upstream), open_channel(step.upstream, step.tls))
        response: bytes = channel.unary_unary(method)(request, timeout=seconds, metadata=_sendable(metadata))
    except (grpc.RpcError, OSError) as error:
        _tell(step, error)
        return None
    return response


async def ask_fallback_aio(step: Ask, method: str, request: bytes, metadata: Any, seconds: float) -> bytes | None:
    """The same in an event loop."""
    assert step.upstream is not None
    try:
        async with open_aio_channel(step.upstream, step.tls) as channel:
            response: bytes = await channel.unary_unary(method)(request, timeout=seconds, metadata=_sendable(metadata))
    except (grpc.RpcError, OSError) as error:
        _tell(step, error)
        return None
    return response


def _tell(step: Ask, error: Exception) -> None:
    if isinstance(error, OSError):  # a file of its TLS
        log.error("%s cannot be asked: %s: %s", step.upstream, error.filename, error.strerror)


def _sendable(metadata: Any) -> Any:
    """A caller's metadata without what grpcio writes itself."""
    own = ("grpc-", ":", "user-agent", "te", "content-type")
    return tuple((key, value) for key, value in metadata or () if not key.startswith(own))
