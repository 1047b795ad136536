"""HTTP requests that Tocsin makes: a guarded request sent to a fallback, a question to a judge. They are rare, so
Python's own client makes them, each on its own connection.
"""

from __future__ import annotations

import asyncio
import http.client
import logging
import socket
import ssl
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

from tocsin.configuration.fields import Address
from tocsin.configuration.listener import UpstreamTls

log = logging.getLogger("tocsin")

Answer = tuple[int, list[tuple[str, str]], bytes]  # a response: its status, header fields and body

# What belongs to one connection or to the body as it was sent (RFC 9110, section 7.6.1), and what encodings are taken.
CONNECTION_FIELDS = frozenset(
    {
        "accept-encoding", "connection", "content-encoding", "content-length", "expect", "host", "keep-alive",
        "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding",
        "upgrade",
    }
)  # fmt: skip
_AT_ONCE = 65_536


class HttpTarget(NamedTuple):
    """Where a request goes."""

    address: Address
    tls: UpstreamTls | None = None


class HttpCall(NamedTuple):
    """A request to make: verb, path with query, header fields, body, how many seconds it may take in all, and how many
    bytes of response may be kept.
    """

    verb: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes
    seconds: float
    limit: int


def forward_headers(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The header fields of a caller that are sent with another request."""
    return [(name, value) for name, value in headers if name.lower() not in CONNECTION_FIELDS]


def fetch(target: HttpTarget, request: HttpCall) -> Answer:
    """The response to one request. It has `request.seconds` from the first byte to the last, however slowly the server
    sends.

    Raises OSError where the server cannot be reached or is too slow (TimeoutError), http.client.HTTPException where its
    answer is not HTTP, ValueError where it is larger than may be kept.
    """
    deadline = time.monotonic() + request.seconds
    connection = _connection(target, request.seconds)
    timer = threading.Timer(request.seconds, _hang_up, [connection.sock])
    timer.daemon = True
    timer.start()
    try:
        connection.putrequest(request.verb, request.path, skip_accept_encoding=True)
        for name, value in [*forward_headers(request.headers), ("Content-Length", str(len(request.body)))]:
            connection.putheader(name, value)
        connection.endheaders(request.body)
        response = connection.getresponse()
        body = bytearray()
        while part := response.read1(_AT_ONCE):
            body += part
            if len(body) > request.limit:
                raise ValueError(f"the answer has more than {request.limit:,} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError(f"no answer within {request.seconds:g} s")
        return response.status, [(name.lower(), value) for name, value in response.getheaders()], bytes(body)
    except (OSError, http.client.HTTPException):
        if time.monotonic() > deadline:  # the timer has closed the connection
            raise TimeoutError(f"no answer within {request.seconds:g} s") from None
        raise
    finally:
        timer.cancel()
        connection.close()


def send(target: HttpTarget, request: HttpCall) -> Answer | None:
    """The response, None when the request failed, took too long, or was answered with more than may be kept."""
    try:
        return fetch(target, request)
    except (OSError, http.client.HTTPException, ValueError) as error:
        log.error("%s cannot be asked: %s: %s", target.address, type(error).__name__, error)
        return None


def _hang_up(connected: socket.socket) -> None:
    """End the connection, so that whoever reads it goes on."""
    with suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)


async def send_aio(target: HttpTarget, request: HttpCall) -> Answer | None:
    """The same in an event loop, by a thread."""
    return await asyncio.to_thread(send, target, request)


def _connection(target: HttpTarget, seconds: float) -> http.client.HTTPConnection:
    """A connection to make a request on. Raises OSError where a file of its TLS cannot be read."""
    address, tls = target
    host = address.host or "localhost"
    connection = http.client.HTTPConnection(host, address.port or None, timeout=seconds)
    plain: socket.socket
    if address.path:
        plain = socket.socket(socket.AF_UNIX)
        plain.settimeout(seconds)
        plain.connect(address.path)
    else:
        plain = socket.create_connection((address.host, address.port), seconds)
    try:
        connection.sock = plain if tls is None else _context(tls).wrap_socket(plain, server_hostname=tls.name or host)
    except BaseException:
        plain.close()
        raise
    return connection


def _context(tls: UpstreamTls) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=tls.ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.certificate is not None:
        context.load_cert_chain(tls.certificate, tls.key)
    return context
