"""The body of a held response on its way to Envoy, and the headers that leave with the first of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tocsin.ext_proc import replies
from tocsin.ext_proc.context import ExchangeHost
from tocsin.ext_proc.requests import RESPONSE_BODY

CONTENT_LENGTH: Final = ["content-length"]


class HeldBody:
    """What may go to Envoy and has not left yet. `is_streamed`: pieces leave one by one (FULL_DUPLEX_STREAMED); else
    all of it leaves at once (BUFFERED). What is held is charged to the memory of `host`.
    """

    def __init__(self, host: ExchangeHost, *, is_streamed: bool) -> None:
        self.is_streamed = is_streamed
        self.has_sent = False  # something has left, which cannot be recalled
        self._host = host
        self._headers: bytes | None = None  # the reply to them
        self._ready: list[bytes] = []
        self._buffered: bytes | None = None  # as it came, where it came at once and its reply waits
        self._charged = 0  # bytes

    def hold_headers(self, reply: bytes) -> None:
        """The reply to the headers leaves with the first piece."""
        self._headers = reply

    def buffer(self, content: bytes) -> None:
        """All of the body has come at once, and waits for its reply."""
        self._buffered = content

    def put(self, pieces: Iterable[bytes]) -> None:
        """These pieces may go, after those before them."""
        self._ready.extend(pieces)

    def withhold(self) -> None:
        """Under BUFFERED, nothing of the body goes on. Under FULL_DUPLEX_STREAMED, what may go still does."""
        if not self.is_streamed:
            self._ready.clear()

    def flush(self) -> None:
        """Send Envoy the pieces that may go, where they leave one by one."""
        if not self.is_streamed or not self._ready:
            return
        content = b"".join(self._ready)
        self._ready.clear()
        self.release(len(content))
        if content:
            self.send_headers()
            self.has_sent = True
            self._host.reply(replies.streamed_body(RESPONSE_BODY, content, end=False))

    def send_headers(self) -> None:
        """Send the reply to the headers, where it has not left yet."""
        if self._headers is not None:
            self._host.reply(self._headers)
            self._headers = None

    def reply_buffered(self) -> None:
        """Send the reply to a body that came at once: what of it may go."""
        if self._buffered is None:
            return
        content, came, self._buffered = b"".join(self._ready), self._buffered, None
        self._ready.clear()
        if content == came:
            self._host.reply(replies.CONTINUE[RESPONSE_BODY])
        else:
            self._host.reply(replies.replaced_body(RESPONSE_BODY, content, removing=CONTENT_LENGTH))

    def charge(self, size: int) -> None:
        """So many bytes are held."""
        self._charged += size
        self._host.memory.charge(size)

    def release(self, size: int) -> None:
        """So many bytes have left. Some of them may never have been charged."""
        size = min(size, self._charged)
        self._charged -= size
        self._host.memory.release(size)

    def release_all(self) -> None:
        """Nothing is held any more."""
        self.release(self._charged)
