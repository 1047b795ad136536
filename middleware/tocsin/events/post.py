"""One HTTP request to a receiver of events, within a time limit and without redirects."""

from __future__ import annotations

import http.client
import socket
import threading
import urllib.error
import urllib.request
from base64 import b64encode
from contextlib import suppress
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from tocsin.addresses import redacted_url

RETRYABLE_STATUSES = (408, 425, 429)  # statuses of 4xx that may be otherwise next time


class Rejected(Exception):
    """The receiver refuses this event for good."""


def post(url: str, body: bytes, headers: dict[str, str], timeout: float) -> None:
    """POST a body. The receiver accepts it with any 2xx. The whole request, from name resolution to the last byte of
    the response, has `timeout` seconds. Redirects are not followed, because body and signature are for this receiver
    alone.

    Raises Rejected where the receiver refuses the event, OSError where it cannot be reached or has not accepted it.
    """
    request = _Request(url, body, headers, timeout)
    thread = threading.Thread(target=request.run, name="tocsin-post", daemon=True)
    thread.start()
    thread.join(timeout)
    if not request.done.is_set():
        request.give_up()
        raise TimeoutError(f"{redacted_url(url)}: no answer within {timeout:g} s")
    if request.failure is not None:
        raise request.failure


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """None: a redirect counts as a failure."""
        return


class _Request:
    def __init__(self, url: str, body: bytes, headers: dict[str, str], timeout: float) -> None:
        self._url, self._timeout = url, timeout
        self._request = urllib.request.Request(_without_user(url), data=body, headers=headers, method="POST")
        self._request.headers.update(_credentials(url))
        self._socket: socket.socket | None = None
        self._given_up = False
        self._lock = threading.Lock()
        self.failure: Exception | None = OSError(f"{redacted_url(url)}: not asked")
        self.done = threading.Event()

    def run(self) -> None:
        """Send the request; `failure` is its outcome."""
        opener = urllib.request.build_opener(_NoRedirects, *_handlers(self))
        try:
            with opener.open(self._request, timeout=self._timeout) as answer:
                answer.read(1024)
            self.failure = None
        except urllib.error.HTTPError as error:
            self.failure = _refusal(self._url, error)
            error.close()
        except Exception as error:  # URLError, http.client's, ssl's, and whatever a broken answer brings about
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            self.failure = OSError(f"{redacted_url(self._url)}: {reason or type(reason).__name__}")
        finally:
            if self._socket is not None:
                self._socket.close()
            self.done.set()

    def connected(self, connection: socket.socket) -> None:
        """Remember the connection, to close it when time is up. Raises OSError if that has happened."""
        with self._lock:
            if self._given_up:
                raise TimeoutError("time is up")
            self._socket = connection.dup()  # TLS makes another object of the same connection

    def give_up(self) -> None:
        """Time is up: close the connection."""
        with self._lock:
            self._given_up = True
            if self._socket is not None:
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)


def _handlers(request: _Request) -> list[Any]:
    """Handlers whose connections `request` knows. They use the environment's proxies, as urllib does."""

    class Traced(http.client.HTTPConnection):
        def connect(self) -> None:
            super().connect()
            request.connected(self.sock)

    class Secure(http.client.HTTPSConnection, Traced):  # whose connect calls that of Known before TLS begins
        pass

    class PlainHandler(urllib.request.HTTPHandler):
        def http_open(self, request: urllib.request.Request) -> Any:
            return self.do_open(Traced, request)

    class SecureHandler(urllib.request.HTTPSHandler):
        def https_open(self, request: urllib.request.Request) -> Any:
            return self.do_open(Secure, request)

    return [PlainHandler, SecureHandler]


def _refusal(url: str, error: urllib.error.HTTPError) -> Exception:
    problem = f"{redacted_url(url)}: HTTP {error.code} {error.reason}"
    if 300 <= error.code < 400:
        to = error.headers.get("Location", "")
        where = f" to {redacted_url(to)}" if "://" in to else ""
        return OSError(
            f"{problem}: it redirects{where}, which is not followed; configure the address that takes events"
        )
    if error.code < 500 and error.code not in RETRYABLE_STATUSES:
        return Rejected(problem)
    return OSError(problem)


def _without_user(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _credentials(url: str) -> dict[str, str]:
    """Basic authentication for a URL that names a user."""
    parts = urlsplit(url)
    if parts.username is None:
        return {}
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
    return {"Authorization": f"Basic {b64encode(pair).decode()}"}
