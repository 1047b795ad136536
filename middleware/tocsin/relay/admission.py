"""What becomes of a request's header block: a stream begins, the call is refused, or the block is dropped."""

from __future__ import annotations

from typing import Final

from tocsin.grpc_wire.content_types import is_grpc
from tocsin.http2 import frames
from tocsin.http2.frames import END_STREAM, PADDED, FrameError
from tocsin.http2.header_literals import block as block_of
from tocsin.http2.headers import HeaderError, HeadersTooLong
from tocsin.judgement.call import Call
from tocsin.judgement.call_plan import CallPlan
from tocsin.relay.asking import AskingStream
from tocsin.relay.connection import Connection
from tocsin.relay.local_reply import PERMISSION_DENIED, RESOURCE_EXHAUSTED, UNAVAILABLE
from tocsin.relay.request_block import RequestHead, RequestReader, every_field

SMALL_BLOCK: Final = 1_024  # bytes of headers that are not counted, where only what judgement reads of them is kept
SHOWN_PATH: Final = 200  # characters of a path in a refusal

Refusal = tuple[str, str, str]  # the limit's name among the counts, a status, and the reason


class Admission:
    """Reads one client's header blocks before anything else does.

    Blocks that are refused never reach the upstream. While later blocks may refer to one that was refused, the upstream
    gets all of them written anew, so that none refers to another.
    """

    __deletable__ = ("_connection",)  # where this is compiled

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._reader = RequestReader(connection.context.longest_headers)
        self._writes_anew = False

    def break_cycle(self) -> None:
        """The connection has ended, and is held no longer."""
        del self._connection

    def drop_dynamic_table(self) -> None:
        """The client has acknowledged a dynamic table of size 0: its blocks stand alone, and pass as they come."""
        self._reader.drop_dynamic_table()
        self._writes_anew = False

    def headers(self, stream: int, flags: int, block: bytes) -> bytes | None:
        """A header block; what to hand on in its place, None for the same bytes. Raises FrameError."""
        connection = self._connection
        context, stateful = connection.context, self._reader.stateful
        if (
            not (stateful or flags & PADDED)
            and stream > connection.last_stream
            and stream & 1
            and len(block) <= context.longest_headers
            and not connection.is_retiring
        ):  # most are so
            request_fields = context.request_fields
            return self._open(
                stream, flags, block, request_fields.heads.get(block) or request_fields.head(block), None, None
            )
        is_new = connection.is_new(stream)
        if len(block) > connection.context.longest_headers and (is_new or stateful):
            return self._refuse(stream, flags, self._too_long(f"{len(block):,} bytes"), dropped=not stateful)
        fields: list[tuple[str, str]] | None = None
        if stateful:
            try:
                fields = self._reader.early(block)
            except HeadersTooLong:
                return self._refuse(stream, flags, self._too_long("too much"), dropped=False)
        # Some servers read padding as fields (C-core does), so that they get none.
        instead = None
        if flags & PADDED or self._writes_anew:
            if self._writes_anew:
                if fields is None:
                    raise FrameError(frames.COMPRESSION_ERROR, "a header block that cannot be decoded")
                block = block_of(fields)
            instead = frames.header_frames(stream, block, end_stream=bool(flags & END_STREAM))
        if is_new:
            return self._begin(stream, flags, block, fields, instead)
        open_stream, request_fields = connection.streams.get(stream), connection.context.request_fields
        if open_stream is None:
            head = request_fields.head_of(fields) if fields is not None else request_fields.head(block)
            if head.paths:
                raise FrameError(
                    frames.PROTOCOL_ERROR, f"stream {stream} begins behind stream {connection.last_stream}"
                )
            # Of a stream that has ended. An upstream that never heard of it would take it for a new one.
            return instead if stateful and not self._writes_anew else b""
        if flags & END_STREAM:
            open_stream.request_ended = True
            if isinstance(open_stream, AskingStream):
                return open_stream.request_headers(flags, block) or instead
        return instead

    def _begin(
        self, stream: int, flags: int, block: bytes, fields: list[tuple[str, str]] | None, instead: bytes | None
    ) -> bytes | None:
        """A new stream, whose fields are known where its block may depend on others."""
        connection = self._connection
        context = connection.context
        stateful = self._reader.stateful
        if not stateful:
            head = context.request_fields.head(block)
        elif fields is not None:
            head = context.request_fields.head_of(fields)
        else:
            head = RequestHead({}, (), "it, or one before it, cannot be decoded")
        if connection.is_retiring and not stateful:
            if head.irregular:
                context.not_understood["headers"] += 1
            connection.downstream.put(
                frames.reset(stream, frames.REFUSED_STREAM)
            )  # clients send it again by themselves
            connection.mark_closed(stream)
            connection.request_flush()
            return b""
        return self._open(stream, flags, block, head, fields, instead)

    def _open(
        self,
        stream: int,
        flags: int,
        block: bytes,
        head: RequestHead,
        fields: list[tuple[str, str]] | None,
        instead: bytes | None,
    ) -> bytes | None:
        """A new stream, whose block says `head`."""
        connection = self._connection
        context, irregular = connection.context, head.irregular
        if irregular:
            context.not_understood["headers"] += 1
        if not head.is_planned:
            head.plan, head.is_planned = self._plan(head), True
        plan = head.plan
        call = None if plan is None else context.guard.begin(plan, connection.model, connection.name)
        count = len(connection.streams)
        if irregular or call is None or count >= connection.allowance.granted or count >= context.most_streams:
            refusal = self._refusal(head, call)
            if refusal is not None:
                dropped = not self._reader.stateful or fields is not None
                return self._refuse(stream, flags, refusal, dropped=dropped)
        asks = context.injects_requests and is_grpc(head.fields.get("content-type", ""))
        opened = connection.begin(stream, call, asks=asks)
        if head.encoding:
            opened.request_encoding = head.encoding
        if call is not None and context.buffers_headers:
            opened.fields = _all_fields(block) if fields is None else fields
        if opened.fields or len(block) > SMALL_BLOCK:
            opened.keep_headers(len(block))
        if flags & END_STREAM:
            opened.request_ended = True
        if asks and isinstance(opened, AskingStream):
            return opened.request_headers(flags, block) or instead
        return instead

    def _plan(self, head: RequestHead) -> CallPlan | None:
        """How a call is judged: of what is not written as it should be, what some server may take it for; None where
        none takes it for a guarded one.
        """
        context = self._connection.context
        for path in reversed(head.paths):
            plan = context.guard.plan(path, head.fields)
            if plan is None and (method := context.paths.method(path)):
                plan = context.guard.plan(method, head.fields)
            if plan is not None:
                return plan
        return None

    def _refusal(self, head: RequestHead, call: Call | None) -> Refusal | None:
        """Why a new stream is not taken."""
        connection = self._connection
        context, count = connection.context, len(connection.streams)
        if count >= context.most_streams:
            return "streams", RESOURCE_EXHAUSTED, f"more than {context.most_streams:,} calls at once on a connection"
        if not connection.allowance.extend(count):
            return "memory", RESOURCE_EXHAUSTED, f"there is no memory for more than {count:,} calls at once here"
        if head.irregular and context.fails_closed:
            reason = f"servers may read the header block in different ways ({head.irregular})"
            return "unreadable", UNAVAILABLE, f"{reason}, and nothing may pass unread"
        if call is None and context.refuses_unguarded:
            path = head.paths[-1] if head.paths else ""
            if not context.allowed_methods.allows(path):
                reason = f"no model has the method {path[:SHOWN_PATH]}, and other methods are refused"
                return "unguarded", PERMISSION_DENIED, reason
        return None

    def _too_long(self, size: str) -> Refusal:
        return "headers", RESOURCE_EXHAUSTED, f"the header block holds {size}"

    def _refuse(self, stream: int, flags: int, refusal: Refusal, *, dropped: bool) -> bytes:
        """Refuse a call. Where its block cannot be `dropped` without losing what later ones need, refuse them all."""
        limit, status, reason = refusal
        self._connection.context.limited[limit] += 1
        if not dropped:
            raise FrameError(frames.ENHANCE_YOUR_CALM, reason)
        if self._reader.stateful:
            self._writes_anew = True
        self._connection.refuse_stream(stream, status, reason, ended=bool(flags & END_STREAM))
        return b""


def _all_fields(block: bytes) -> list[tuple[str, str]]:
    """The fields of a block that depends on none before it, in order; none where it cannot be decoded."""
    try:
        return every_field(block)
    except HeaderError:
        return []
