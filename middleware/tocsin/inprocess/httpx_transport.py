"""Guarded transports of httpx, sync and async, and of httpx2, which has the same classes under another name."""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from typing import Any

from tocsin.exchange.opening import Exchanges
from tocsin.inprocess.httpx_async import AsyncHttpxBody, GuardedAsyncTransport
from tocsin.inprocess.httpx_sync import GuardedTransport, HttpxBody
from tocsin.judgement.guard import Guard

_LIBRARIES = ("httpx", "httpx2")


def guarded_transport(transport: Any, guard: Guard) -> Any:
    """A transport like this one, whose responses are judged. Raises TypeError where it is none."""
    exchanges = Exchanges(guard)
    exchanges.require("guard_transport")
    kinds = hasattr(transport, "handle_request"), hasattr(transport, "handle_async_request")
    return _transport_class(_library_of(transport), *kinds)(transport, exchanges)


def _library_of(transport: Any) -> str:
    for base in type(transport).__mro__:
        name = base.__module__.partition(".")[0]
        if name in _LIBRARIES:
            return name
        if base.__name__ in ("BaseTransport", "AsyncBaseTransport"):  # a library may name itself in its classes
            return _defining(base)
    raise TypeError(f"expected a transport such as httpx.HTTPTransport(), not a {type(transport).__name__}")


def _defining(base: type) -> str:
    for name in _LIBRARIES:
        if getattr(sys.modules.get(name), base.__name__, None) is base:
            return name
    raise TypeError(f"expected a transport of httpx, not a {base.__module__}.{base.__name__}")


@cache
def _transport_class(name: str, is_sync: bool, is_async: bool) -> Any:
    """The class of guarded transports for a library: a transport of its own, of both kinds where what it wraps is."""
    library = import_module(name)
    bases: tuple[type, ...] = ()
    content: dict[str, Any] = {"library": library}
    if is_sync:
        bases += (GuardedTransport, library.BaseTransport)
        content["stream_type"] = type("GuardedStream", (HttpxBody, library.SyncByteStream), {})
    if is_async:
        bases += (GuardedAsyncTransport, library.AsyncBaseTransport)
        content["async_stream_type"] = type("GuardedStream", (AsyncHttpxBody, library.AsyncByteStream), {})
    return type("GuardedTransport", bases, content)
