"""gRPC channels of Tocsin's own: to the model itself, or to a fallback, with TLS where that is configured."""

from __future__ import annotations

from typing import Any

import grpc

from tocsin.configuration.fields import Address
from tocsin.configuration.listener import UpstreamTls

_UNBOUNDED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def open_channel(address: Address, tls: UpstreamTls | None) -> grpc.Channel:
    """A channel. Raises OSError when a file of `tls` cannot be read."""
    return _opened(grpc, address, tls)


def open_aio_channel(address: Address, tls: UpstreamTls | None) -> grpc.aio.Channel:
    """The same for an event loop."""
    return _opened(grpc.aio, address, tls)


def _opened(library: Any, address: Address, tls: UpstreamTls | None) -> Any:
    if tls is None:
        return library.insecure_channel(str(address), options=_UNBOUNDED)
    options = [*_UNBOUNDED, *([("grpc.ssl_target_name_override", tls.name)] if tls.name else [])]
    ca, key, certificate = (None if path is None else path.read_bytes() for path in (tls.ca, tls.key, tls.certificate))
    return library.secure_channel(str(address), grpc.ssl_channel_credentials(ca, key, certificate), options=options)
