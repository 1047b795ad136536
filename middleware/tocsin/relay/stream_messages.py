"""The messages of one HTTP/2 stream on their way to the scorer: cut out of DATA, and submitted to be judged."""

from __future__ import annotations

from typing import Final

from tocsin.grpc_wire.deframer import (
    MOST_TOGETHER_BYTES,
    PREFIX_SIZE,
    Message,
    MessageDeframer,
    framed,
    whole_message,
    whole_messages,
)
from tocsin.judgement.call import Call, Fault, StreamedCall
from tocsin.judgement.message_run import MessageRun
from tocsin.protocols.messages import decompress
from tocsin.relay.stream_host import StreamHost
from tocsin.unscored import Unscored

FEW: Final = 24  # messages up to which each is judged by itself: numpy's calls cost as much as reading so many


class StreamMessages:
    """Messages of a guarded call, in both directions, as they come in pieces.

    `call` is None for streams that are not guarded. What is kept until it is judged is charged to the connection.
    """

    __slots__ = (
        "_context", "_host", "_kept_bytes", "_kept_requests", "_request", "_response", "_run", "_waiting", "call",
        "request_encoding", "response_encoding",
    )  # fmt: skip

    def __init__(self, host: StreamHost, call: Call | None) -> None:
        self.call = call
        self._host = host
        self._context = host.context
        self.request_encoding = self.response_encoding = ""
        self._waiting = 0  # judgements that are not there yet
        self._kept_bytes = 0  # bytes that the call keeps of a stream, until they are judged
        self._kept_requests = 0  # and of requests, until they are answered
        self._request: MessageDeframer | None = None
        self._response: MessageDeframer | None = None
        self._run: MessageRun | None = None  # messages that wait for their turn, and may be joined by others

    def judged(self, call: Call) -> None:
        """A verdict is there."""
        raise NotImplementedError

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
        elif self._response.take_part(payload, 0, len(payload), keeps=True):  # in the midst of a message
            return
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
            context.guard.pass_without_bundle(call.unread_piece(len(sizes)))
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
            context.guard.pass_without_bundle(piece)
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

    def _forget_messages(self) -> None:
        """Nobody waits for the messages any more: what is unfinished is given back."""
        self._run = None
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
