"""A stream whose request is changed on its way: it asks for the signals that judging needs."""

from __future__ import annotations

from tocsin.grpc_wire.deframer import MessageDeframer, framed
from tocsin.http2 import frames
from tocsin.http2.frames import END_STREAM
from tocsin.http2.headers import CONTENT_LENGTH, HeaderError, remove_header
from tocsin.judgement.call import Call
from tocsin.relay.holding import HeldStream
from tocsin.relay.stream_host import StreamHost
from tocsin.relay.windows import Windows
from tocsin.unscored import Unscored


class AskingStream(HeldStream):
    """Holds the first message of the request until it is complete, and sends on one that asks for more.

    Where that cannot be done the request goes on as it came.
    """

    __slots__ = ("_request_is_whole", "_requests", "_unasked")

    def __init__(self, host: StreamHost, stream_id: int, call: Call, windows: Windows) -> None:
        super().__init__(host, stream_id, call, windows)
        self._requests = windows.requests
        self._unasked: MessageDeframer | None = None  # what there is of the request that is to be changed
        self._request_is_whole = False

    def request_headers(self, flags: int, block: bytes) -> bytes | None:
        """The request's header block, without the length of what will be longer."""
        self._request_is_whole = bool(flags & END_STREAM)
        try:
            shorter = remove_header(block, *CONTENT_LENGTH)
        except HeaderError:
            return None
        if shorter == block:
            return None
        return frames.header_frames(self._id, shorter, end_stream=bool(flags & END_STREAM))

    def take_request(self, payload: bytes, ended: bool) -> bool:
        """A piece of the request: whether it was taken."""
        if self._request_is_whole:
            return False
        if self._unasked is None:
            self._unasked = MessageDeframer(self._context.max_message, self._host.memory, keeps=True)
        requests = self._requests
        for message in self._unasked.feed(payload):
            if message.content is None:
                self._request_is_whole = True
                self.guarded.on_request_message(*self._plain(message, ""))
                requests.send(self._id, self._unasked.rest)
                break
            framed_message = framed(message.content, compressed=message.compressed)
            content, fault = self._plain(message, self.request_encoding)
            self.guarded.on_request_message(content, fault)
            if content is not None and not self._request_is_whole:
                framed_message = self._with_more(content) or framed_message
            self._request_is_whole = True
            requests.send(self._id, framed_message)
        if self._request_is_whole and (rest := self._unasked.unfinished()):
            self.request_data(rest)
            requests.send(self._id, rest)
        if ended:
            self._request_is_whole = True
            requests.send(self._id, self._unasked.unfinished(), END_STREAM)
        return True

    def drop(self) -> None:
        if self._unasked is not None:
            self._unasked.forget()
        super().drop()

    def _with_more(self, content: bytes) -> bytes | None:
        """The request that asks for signals, framed; None where the caller asks for them anyway."""
        guard = self._context.guard
        for edit in guard.edits(self.guarded):
            try:
                changed = edit.ask(content)
            except Unscored:
                return None
            if changed is not None:
                self.strip(edit, content)
                self.guarded.replace_request(changed)
                return framed(changed)
        return None
