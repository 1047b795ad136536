"""One HTTP/2 stream on its way through the relay."""

from __future__ import annotations

import time
from asyncio import TimerHandle
from collections.abc import Mapping, Sequence

from tocsin.configuration.fields import Address
from tocsin.configuration.listener import UpstreamTls
from tocsin.grpc_wire.deframer import (
    MOST_TOGETHER_BYTES,
    PREFIX_SIZE,
    Message,
    MessageDeframer,
    framed,
    whole_message,
    whole_messages,
)
from tocsin.http2 import frames
from tocsin.http2.headers import HeaderError, literal_parts
from tocsin.judgement.accepting import accept_verdict
from tocsin.judgement.batching import VerdictCallback
from tocsin.judgement.call import Call, Fault, StreamedCall
from tocsin.judgement.message_run import MessageRun
from tocsin.memory import MemoryAccount
from tocsin.protocols.messages import decompress
from tocsin.relay.context import RelayContext, RelayedConnection
from tocsin.relay.response_block import ResponseBlock
from tocsin.relay.verdict_fields import VERDICT_OVERHEAD, verdict_field, verdict_text
from tocsin.unscored import Unscored
from tocsin.verdict import METADATA_KEY, ROWS_TOLD, Verdict

FEW = 24  # messages up to which each is judged by itself: numpy's calls cost as much as reading so many


class StreamHost(RelayedConnection):
    """A connection, as its streams know it.

    `largest_frame` and `largest_list` are what the client takes: bytes of a frame, and of a header list.
    """

    context: RelayContext
    memory: MemoryAccount
    upstream_address: Address
    upstream_tls: UpstreamTls | None
    largest_frame: int
    largest_list: int

    def submit(self, call: Call, waiting: VerdictCallback) -> bool:
        """Judge a response; whether that happens within a few turns of the loop: what follows is written after it."""
        raise NotImplementedError

    def release_trailers(self, stream_id: int, held: list[bytes]) -> None:
        """A stream's held frames may go: it has ended."""
        raise NotImplementedError

    def replaced(self, stream_id: int, *, upstream_ended: bool) -> None:
        """The relay has ended a stream towards the client; the upstream's part of it is not wanted any more."""
        raise NotImplementedError

    def on_response_done(self, stream_id: int) -> None:
        """A held stream has put its last, or has queued it; it is written with what else is put in this turn."""
        raise NotImplementedError

    def write_upstream(self) -> None:
        """Something was put for the upstream: write it."""
        raise NotImplementedError

    def request_flush(self) -> None:
        """Something was put for the client: write it, unless verdicts of this batch are still to come."""
        raise NotImplementedError


class Stream:
    """What the relay knows of a stream between its first HEADERS and its end.

    `call` is None for streams that are not guarded: those are only watched, so that their caller gets a status when
    the upstream goes away. Frames that wait for the verdict are held, the trailers first. `fields` are the request's
    headers, kept where the request may be sent again.
    """

    headers_sent = False
    request_ended = False
    response_ended = False
    fields: Sequence[tuple[str, str]] = ()
    request_encoding = ""
    response_encoding = ""
    _waiting = 0  # judgements that are not there yet
    _kept_bytes = 0  # bytes that the call keeps of a stream, until they are judged
    _header_size = 0
    _kept_requests = 0  # and of requests, until they are answered
    _arrived = 0.0
    _trailing: ResponseBlock | None = None  # the trailers that wait for the verdict
    _held: Sequence[bytes] = ()  # frames behind them
    _late: Verdict | None = None  # what callers are told when nobody waits for the verdict any more
    _timer: TimerHandle | None = None
    _request: MessageDeframer | None = None
    _response: MessageDeframer | None = None
    _run: MessageRun | None = None  # messages that wait for their turn, and may be joined by others

    def __init__(self, host: StreamHost, stream_id: int, call: Call | None) -> None:
        self.call = call
        self._host = host
        self._context = host.context
        self._id = stream_id

    @property
    def holding(self) -> bool:
        """Whether frames wait here for a verdict."""
        return self._trailing is not None

    def pass_unread(self, block: ResponseBlock) -> bool:
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

    def request_data(self, payload: bytes) -> None:
        """A piece of the caller's messages, on a guarded stream."""
        call = self.call
        if call is None or not call.wants_request:
            return
        if self._request is None:
            content = whole_message(payload, self._context.max_message)
            if content is not None:
                call.on_request_message(content)
                if call.kept_requests or self._kept_requests:
                    self._count_requests(call)
                return
            self._request = MessageDeframer(self._context.max_message, self._host.memory)
        for message in self._request.feed(payload):
            call.on_request_message(*self._plain(message, self.request_encoding))
        self._count_requests(call)

    def _count_requests(self, call: Call) -> None:
        """Count the requests that wait for their responses; where there is no room for them, give up the oldest."""
        if not call.kept_requests and not self._kept_requests:
            return
        memory = self._host.memory
        while True:
            if call.kept_requests > self._kept_requests:
                memory.charge(call.kept_requests - self._kept_requests)
            else:
                memory.release(self._kept_requests - call.kept_requests)
            self._kept_requests = call.kept_requests
            if not self._kept_requests or not memory.lacks_room or not call.forget_request():
                return

    def response_data(self, payload: bytes) -> None:
        """A piece of the response, on a guarded stream; once a message is complete, it is judged."""
        call = self.call
        if call is None or (not call.streams and (self._waiting or call.verdict is not None)):
            return
        if self._response is None or (call.takes_runs and not self._response.missing):
            content = whole_message(payload, self._context.max_message)
            if content is not None:
                if call.streams:
                    self._run = None
                    self._on_message(call, content, None)
                elif call.on_response_message(content) is not None:
                    self._submit(call)
                return
        if call.takes_runs and isinstance(call, StreamedCall):
            self._take_together(call, payload)
            return
        if self._response is None:
            reads = call.streams or self._context.guard.reads_responses
            self._response = MessageDeframer(self._context.max_message, self._host.memory, reads=reads)
        for message in self._response.feed(payload):
            self._on_message(call, *self._plain(message, self.response_encoding))

    def response_parts(self, data: bytes, places: list[tuple[int, int]]) -> None:
        """Consecutive pieces of the response, on a guarded stream, which are at these places of what was read."""
        call = self.call
        if call is not None and call.takes_runs:
            self.response_data(b"".join([data[start:stop] for start, stop in places]))
            return
        keeps = len(places) > 1 and 4 * (places[-1][1] - places[0][0]) >= 3 * len(data)  # else it keeps much besides
        for start, stop in places:
            deframer = self._response
            if deframer is None or not deframer.take_part(data, start, stop, keeps=keeps):
                self.response_data(data[start:stop])

    def _take_together(self, call: StreamedCall, payload: bytes) -> None:
        """A piece of a stream whose messages may be judged together: those that are whole in it are not taken apart."""
        limit, deframer = self._context.max_message, self._response
        if deframer is None:
            deframer = self._response = MessageDeframer(limit, self._host.memory)
        at, end = 0, len(payload)
        while at < end:
            missing = deframer.missing
            if not missing:
                sizes: list[int] = []
                stop = whole_messages(payload, at, limit, sizes)
                if sizes:
                    self._on_messages(call, payload if stop - at == end else payload[at:stop], sizes)
                    at = stop
                    continue
                missing = PREFIX_SIZE  # of a message that is not whole here, or is not a usual one
            piece = payload[at : at + missing]
            at += len(piece)
            for message in deframer.feed(piece):
                content = message.content
                if content is None or message.compressed:
                    self._run = None
                    self._on_message(call, *self._plain(message, self.response_encoding))
                else:
                    self._on_messages(call, framed(content), [PREFIX_SIZE + len(content)])

    def _on_messages(self, call: StreamedCall, block: bytes, sizes: list[int]) -> None:
        """Whole messages of a stream, each with its prefix."""
        context = self._context
        if not context.guard.reads_responses:
            context.guard.pass_unread(call.unread_piece(len(sizes)))
            return
        run = self._run
        memory = self._host.memory
        if run is not None and run.has_room(len(block), len(sizes)) and context.batcher.inline:
            memory.charge(len(block))  # until it is judged
            run.add(block, sizes)
        elif len(sizes) <= FEW or len(block) > MOST_TOGETHER_BYTES or not context.batcher.inline or memory.lacks_room:
            self._run = None
            at = 0
            for size in sizes:
                self._on_message(call, block[at + PREFIX_SIZE : at + size], None)
                at += size
        else:
            self._run = run = MessageRun(call)
            memory.charge(len(block))
            run.add(block, sizes)
            context.batcher.has_runs = True
            self._submit(run)

    def _on_message(self, call: Call, content: bytes | None, fault: Fault | None) -> None:
        """A whole message of the response."""
        if not call.streams:
            if call.on_response_message(content, fault) is not None:
                self._submit(call)
            return
        memory = self._host.memory
        if content is not None and memory.lacks_room:
            self._count_requests(call)
            if memory.lacks_room:
                content, fault = None, ("memory", "a message was not kept")
        piece = call.on_response_message(content, fault)
        if call.kept_bytes != self._kept_bytes:
            if call.kept_bytes > self._kept_bytes:
                memory.charge(call.kept_bytes - self._kept_bytes)
            else:
                memory.release(self._kept_bytes - call.kept_bytes)
            self._kept_bytes = call.kept_bytes
        self._count_requests(call)
        if piece is not None:
            self._submit(piece)

    def _submit(self, piece: Call) -> None:
        context = self._context
        if self.call is piece and (context.trusts_verdicts or piece.wants_trailing):
            return  # the trailers tell whether somebody has judged already, or hold what judging takes
        if not context.guard.reads_responses:
            context.guard.pass_unread(piece)
            return
        self._waiting += 1
        self._host.submit(piece, self)

    def _plain(self, message: Message, encoding: str) -> tuple[bytes | None, Fault | None]:
        """A message without its compression, or why it is not to be had."""
        content = message.content
        try:
            if content is None:
                raise Unscored(message.fault or "memory", "a message was not kept")
            if message.compressed:
                content = decompress(content, encoding, self._context.max_message)
        except Unscored as why:
            return None, (why.reason, str(why))
        return content, None

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
                self._timer = context.limit(call, self.late)
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

    def _finish(self, call: Call, status: str) -> None:
        """No more messages come: judge what is left, and count a response that is missing."""
        context = self._context
        if status != "0":
            if call.streams:
                call.forget()
                self._give_back_kept()
            return  # a failed call has no response to judge; of a stream, what came before counts
        pieces = call.ended()
        self._give_back_kept()
        for piece in pieces:
            self._submit(piece)
        if not pieces and not call.streams and call.verdict is None and not self._waiting:
            if call.response is not None or call.fault is not None:  # it waited for the trailers
                self._waiting += 1
                self._host.submit(call, self)
            else:
                context.guard.give_up(call, "no_response", "the call succeeded without a response message")

    def _give_back_kept(self) -> None:
        """Nothing is kept of the stream any more."""
        if self._kept_bytes or self._kept_requests:
            self._host.memory.release(self._kept_bytes + self._kept_requests)
            self._kept_bytes = self._kept_requests = 0

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

    def late(self) -> None:
        """The scoring budget is spent: the trailers go, and say so, unless the verdict has come in this very moment."""
        call = self.call
        if self._trailing is None or call is None:
            return
        call.late = call.streams or call.verdict is None
        if call.verdict is None:  # of a stream, what was judged in time counts
            self._late = self._context.guard.late(call)
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
        verdict = self._late or (self.call.verdict if self.call is not None else None)
        if verdict is None:
            return self._last_frames(block.block)
        host, text = self._host, verdict.to_metadata()
        if len(text) + block.size + VERDICT_OVERHEAD <= host.largest_list:
            content = b"".join((block.block, *literal_parts(METADATA_KEY, text)))
            return frames.header_frames(self._id, content, end_stream=True, largest=host.largest_frame)
        field, cut = verdict_field(verdict, block.size, self._host.largest_list)
        if cut:
            self._context.cut_verdicts[cut] += 1
        return self._last_frames(b"".join((block.block, *field)))

    def _last_frames(self, block: bytes) -> bytes:
        """The frames of the trailers."""
        return frames.header_frames(self._id, block, end_stream=True, largest=self._host.largest_frame)

    def drop(self) -> None:
        """The stream was reset: nobody waits any more, and what is unfinished is given back."""
        if self._timer is not None:
            self._timer.cancel()
        self._held, self._trailing, self._run = (), None, None
        if self._header_size:
            self._host.memory.release(self._header_size)
            self._header_size = 0
        if self._request is not None:
            self._request.forget()
        if self._response is not None:
            self._response.forget()
        call = self.call
        if call is not None and call.streams:
            if self._kept_bytes or self._kept_requests:
                call.forget_requests()
                self._give_back_kept()
            self._context.guard.on_call_closed(call)
