"""One HTTP/2 stream on its way through the relay: its header blocks, and the trailers that wait for the verdict."""

from __future__ import annotations

import time
from asyncio import TimerHandle
from collections.abc import Mapping, Sequence

from tocsin.http2 import frames
from tocsin.http2.header_literals import literal_parts
from tocsin.http2.headers import HeaderError
from tocsin.judgement.accepting import accept_verdict
from tocsin.judgement.call import Call
from tocsin.judgement.message_run import MessageRun
from tocsin.relay.response_block import ResponseBlock
from tocsin.relay.stream_host import StreamHost
from tocsin.relay.stream_messages import StreamMessages
from tocsin.relay.verdict_fields import VERDICT_OVERHEAD, verdict_field, verdict_text
from tocsin.verdict import METADATA_KEY, ROWS_TOLD, Verdict


class Stream(StreamMessages):
    """What the relay knows of a stream between its first HEADERS and its end.

    `call` is None for streams that are not guarded: those are only watched, so that their caller gets a status when
    the upstream goes away. Frames that wait for the verdict are held, the trailers first. `fields` are the request's
    headers, kept where the request may be sent again.
    """

    __slots__ = (
        "_arrived", "_header_size", "_held", "_id", "_late_verdict", "_timer", "_trailing", "fields", "headers_sent",
        "request_ended", "response_ended",
    )  # fmt: skip

    def __init__(self, host: StreamHost, stream_id: int, call: Call | None) -> None:
        super().__init__(host, call)
        self._id = stream_id
        self.headers_sent = self.request_ended = self.response_ended = False
        self.fields: Sequence[tuple[str, str]] = ()
        self._header_size = 0  # bytes kept of the request's headers
        self._arrived = 0.0
        self._trailing: ResponseBlock | None = None  # the trailers that wait for the verdict
        self._held: Sequence[bytes] = ()  # frames behind them
        self._late_verdict: Verdict | None = None  # what callers are told when nobody waits for the verdict any more
        self._timer: TimerHandle | None = None

    @property
    def holding(self) -> bool:
        """Whether frames wait here for a verdict."""
        return self._trailing is not None

    def on_foreign_response(self, block: ResponseBlock) -> bool:
        """The response begins with this block and is not gRPC: let it pass as it comes, or refuse it; whether it was
        refused.
        """
        call = self.call
        if call is not None:
            self._count_unread(call, block)
            self.drop()
            self.call = None
        return False

    def _count_unread(self, call: Call, block: ResponseBlock) -> None:
        """An answer with status 200 might be a model's; any other tells a failure, which is not judged."""
        context = self._context
        context.not_understood["not_grpc"] += 1
        if block.http_status == "200":
            context.guard.give_up(call, "not_grpc", block.foreign)

    def note_initial(self, block: ResponseBlock) -> None:
        """The response begins with this block: keep what judging takes of it."""
        if self.call is not None:
            self.call.initial_metadata = self._scores_in(self.call, block)

    def note_trailing(self, call: Call, block: ResponseBlock) -> None:
        """The response ends with this block: keep what judging takes of it."""
        call.trailing_metadata = self._scores_in(call, block)

    def _scores_in(self, call: Call, block: ResponseBlock) -> Mapping[str, str]:
        try:
            return self._context.response_scores.read(block.block)
        except HeaderError as error:
            call.fault = call.fault or ("undecodable", f"{error}")
            return {}

    def keep_headers(self, size: int) -> None:
        """Of the request's headers so many bytes are kept for as long as the stream is open."""
        self._header_size = size
        self._host.memory.charge(size)

    def trailers(self, block: ResponseBlock) -> bytes | None:
        """The response ends with `block`: what to send in its place, nothing while it is held; None for the same
        without the verdicts that were in it.
        """
        call = self.call
        if call is None:
            return None
        context = self._context
        if call.wants_trailing:
            self.note_trailing(call, block)
        if block.verdicts and self._accepts(call, block):
            return self._annotated(block)
        if not self._waiting or call.streams or block.grpc_status != "0":
            self._finish(call, block.grpc_status)
        if not context.annotates or (not self._waiting and call.verdict is None):
            return None
        if self._waiting:
            self._arrived = time.perf_counter()
            self._trailing = block
            if not context.batcher.inline:
                self._timer = context.limit(call, self.on_deadline)
            return b""
        context.added(0.0)
        return self._annotated(block)

    def _accepts(self, call: Call, block: ResponseBlock) -> bool:
        """Whether the response brings a verdict that was made behind, and that holds here."""
        context = self._context
        if not context.trusts_verdicts or call.streams or self._waiting:
            return False
        text = verdict_text(block.verdicts[-1])
        if not accept_verdict(context.guard, call, text, failed=block.grpc_status != "0"):
            context.not_understood["verdict"] += 1
            return False
        context.accepted += 1
        return True

    def hold(self, frame: bytes) -> None:
        """A frame that must stay behind the trailers that wait."""
        self._held = [*self._held, frame]

    def judged(self, call: Call) -> None:
        """A verdict is there: let go what waits for the last of them."""
        self._run = None
        if isinstance(call, MessageRun):
            self._host.memory.release(call.size)
        verdict = call.verdict
        if verdict is not None and verdict.rows > ROWS_TOLD:  # a caller that does not read may make many of them wait
            verdict.keep_told()
        self._waiting -= 1
        if self._trailing is not None and not self._waiting:
            self._release()

    def on_deadline(self) -> None:
        """The scoring budget is spent: the trailers go, and say so, unless the verdict has come in this very moment."""
        call = self.call
        if self._trailing is None or call is None:
            return
        call.is_late = call.streams or call.verdict is None
        if call.verdict is None:  # of a stream, what was judged in time counts
            self._late_verdict = self._context.guard.late_verdict(call)
        self._release()

    def _release(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        trailing, others = self._trailing, self._held
        assert trailing is not None
        self._trailing, self._held = None, ()
        self._context.added(time.perf_counter() - self._arrived)
        self._host.release_trailers(self._id, [self._annotated(trailing), *others])

    def _annotated(self, block: ResponseBlock) -> bytes:
        """The frames of the trailers, with the verdict as far as there is room for it."""
        verdict = self._late_verdict or (self.call.verdict if self.call is not None else None)
        if verdict is None:
            return self._last_frames(block.block)
        host, text = self._host, verdict.to_metadata()
        if len(text) + block.size + VERDICT_OVERHEAD <= host.largest_list:
            content = b"".join((block.block, *literal_parts(METADATA_KEY, text)))
            return frames.header_frames(self._id, content, end_stream=True, largest=host.largest_frame)
        field, shortening = verdict_field(verdict, block.size, self._host.largest_list)
        if shortening:
            self._context.cut_verdicts[shortening] += 1
        return self._last_frames(b"".join((block.block, *field)))

    def _last_frames(self, block: bytes) -> bytes:
        """The frames of the trailers."""
        return frames.header_frames(self._id, block, end_stream=True, largest=self._host.largest_frame)

    def drop(self) -> None:
        """The stream was reset: nobody waits any more, and what is unfinished is given back."""
        if self._timer is not None:
            self._timer.cancel()
        self._held, self._trailing = (), None
        if self._header_size:
            self._host.memory.release(self._header_size)
            self._header_size = 0
        self._forget_messages()
