"""Reads a caller's requests one after the other, each part when it is the connection's turn."""

from __future__ import annotations

from tocsin.http_relay.bodies import BodyError
from tocsin.http_relay.context import HttpContext
from tocsin.http_relay.heads import HeadError, Http1Request
from tocsin.http_relay.hosts import UpstreamHost
from tocsin.http_relay.incoming import CallerRequests
from tocsin.relay.fair_share import Flow


class CallerHost(UpstreamHost):
    """A connection, as the reader of its requests knows it."""

    is_draining: bool

    def open_request(self, head: Http1Request) -> None:
        """A request begins."""
        raise NotImplementedError

    def end_request(self) -> None:
        """The request is complete, and its response sent: on with the next one."""
        raise NotImplementedError

    def refuse_rest(self, status: int, code: str, message: str) -> None:
        """What the caller sends cannot be read, nor what comes behind it: say so where nothing was said, and end."""
        raise NotImplementedError


class CallerReader:
    """What comes of the next request waits until the response before it is sent.

    `is_behind`: something has come that is not read yet, because others have their turn. `has_ended`: nothing more is
    read of the caller.
    """

    def __init__(self, host: CallerHost, context: HttpContext) -> None:
        self.is_behind = False
        self.has_ended = False
        self._host = host
        self._relay = context.relay
        self._context = context
        self._unread = CallerRequests()
        self._flow = Flow(self._read_slice)

    @property
    def unread(self) -> bytes:
        """What has come and is not read yet."""
        return self._unread.received

    def add(self, data: bytes) -> None:
        """More has come of the caller."""
        self._unread.received = self._unread.received + data if self._unread.received else data
        self.is_behind = True

    def take_unread(self) -> bytes:
        """What has come and is not read yet, which others read from here on."""
        received, self._unread.received = self._unread.received, b""
        return received

    def go_on(self) -> None:
        """Read what has come of the caller, as far as it is its turn."""
        if self._unread.received:
            self._context.share.wake(self._flow)

    def read_all(self) -> None:
        """Read what has come without waiting for turns: the caller writes no more."""
        while self.is_behind and self._read_part():
            pass

    def _read_slice(self) -> bool:
        reads_on = self._read_part()
        if not reads_on:
            self.is_behind = False
            self._host.pace()
        return reads_on

    def _read_part(self) -> bool:
        """Read a part of what has come; whether there may be another."""
        unread = self._unread
        return bool(unread.received) and not self.has_ended and self._read() and bool(unread.received)

    def _read(self) -> bool:
        """Read the next part of what has come, a head with what follows it; whether there was one."""
        host, unread = self._host, self._unread
        if host.request is None and (not self._begin() or not unread.received):
            return False
        request = host.request
        if request is None or self.has_ended:
            return not self.has_ended  # the relay has answered it
        if request.is_complete:
            return False  # the next one waits
        try:
            raw, content, unread.received = request.body.feed(unread.received)
        except BodyError as error:
            self._relay.not_understood["malformed"] += 1
            host.refuse_rest(400, "MALFORMED", str(error))
            return False
        request.on_body(raw, content)
        if request.body.is_done:
            request.on_end()
            if not host.awaits_response:
                host.end_request()
        return True

    def _begin(self) -> bool:
        """Read a head, where there is a whole one."""
        try:
            head = self._unread.head(self._context.names, self._relay.longest_headers)
        except HeadError as error:
            is_long = error.status == 431
            if is_long:
                self._relay.limited["headers"] += 1
            else:
                self._relay.not_understood["malformed"] += 1
            self._host.refuse_rest(error.status, "HEADERS" if is_long else "MALFORMED", str(error))
            return False
        if head is None:
            return False
        if self._host.is_draining:
            self._host.close()
            return False
        self._host.open_request(head)
        return True
