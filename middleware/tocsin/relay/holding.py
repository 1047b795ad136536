"""A stream whose responses wait until they are judged, and go out, or something else in their place."""

from __future__ import annotations

from typing import Final

from tocsin.grpc_wire.deframer import MessageDeframer, framed, whole_message
from tocsin.judgement.actions import Outcome
from tocsin.judgement.call import Call
from tocsin.judgement.outgoing import DONE, PASSING
from tocsin.judgement.policy import not_grpc
from tocsin.relay.gated_stream import GatedStream
from tocsin.relay.response_block import ResponseBlock, unread_response_block
from tocsin.relay.stream_host import StreamHost
from tocsin.relay.windows import Windows

MOST_AHEAD: Final = 1 << 18  # bytes of a stream's messages that wait for verdicts before the upstream waits as well

_NO_TRAILERS: Final = unread_response_block(b"")  # of a response that ends with DATA


class HeldStream(GatedStream):
    """A guarded stream in enforce, or one whose responses are changed because more was asked for than the caller did.

    Reports to the gate what the upstream sends, and what becomes of verdicts, deadlines and further requests.
    """

    __slots__ = ("_receive_window",)

    def __init__(self, host: StreamHost, stream_id: int, call: Call, windows: Windows) -> None:
        super().__init__(host, stream_id, call, windows)
        self._receive_window = windows.from_server

    @property
    def holding(self) -> bool:
        return self.gate.is_holding

    # -- what the upstream sends

    def on_foreign_response(self, block: ResponseBlock) -> bool:
        call, gate = self.guarded, self.gate
        self._count_unread(call, block)
        if self._context.guard.fails_closed(call):
            self._do(gate.replace(not_grpc(block.http_status, block.foreign, call.verdict)))
            return True
        self._unread = True
        self._do(gate.pass_the_rest())
        self._pass_unfinished()
        return False

    def take(self, payload: bytes, size: int, ended: bool) -> None:
        """A piece of the response, `size` bytes of a window."""
        is_ahead = self._size > MOST_AHEAD and self.gate.awaits_verdict
        if is_ahead or (self._send_window.waiting and self._send_window.blocked(self._id)):
            self._receive_window.defer_credit(self._id, size)
        else:
            self._receive_window.credit(self._id, size, ended=ended)
        state = self.gate.state
        if state == DONE:
            return
        if state != PASSING:
            if self._response is None or not self._response.take_part(payload, 0, len(payload), keeps=True):
                self._assemble(payload)
        elif payload:
            self._send_window.send(self._id, payload)
        if ended:
            self.response_ended = True
            self._trailing = _NO_TRAILERS
            self._end_response("")

    def _assemble(self, payload: bytes) -> None:
        largest = self._context.max_message
        if self._response is None:
            single = whole_message(payload, largest)
            if single is not None:
                self._message(payload, single)
                return
            self._response = MessageDeframer(largest, self._host.memory, keeps=True)
        gate = self.gate
        for message in self._response.feed(payload):
            if gate.state == DONE:
                return
            if message.content is None:
                self._give_up(message.fault or "memory", self._response.rest)
                return
            framed_message = framed(message.content, compressed=message.compressed)
            content, fault = self._plain(message, self.response_encoding) if gate.state != PASSING else (None, None)
            if content is not None:
                self._message(framed_message, content)
                continue
            self._charge(len(framed_message))
            self._do(gate.on_message(framed_message, None, fault))
            self._count_requests(self.guarded)
        self._pass_unfinished()

    def _message(self, framed_message: bytes, content: bytes) -> None:
        """A message as it came, and without framing and compression."""
        call, memory = self.guarded, self._host.memory
        if self._stripping is not None:
            framed_message = self._stripped(content) or framed_message
        size = len(framed_message)
        self._size += size
        is_short = memory.charge(size)
        if call.kept_requests or self._kept_requests:
            self._count_requests(call)
        if is_short and memory.lacks_room and self.gate.expects_more:
            self._size -= size  # it is charged where it is given up
            memory.release(size)
            self._give_up("memory", framed_message)
            return
        self._do(self.gate.on_message(framed_message, content))
        if call.kept_requests or self._kept_requests:
            self._count_requests(call)

    def _give_up(self, reason: str, rest: bytes) -> None:
        """A message is too large to be held, of which `rest` has come."""
        self._charge(len(rest))
        self._do(self.gate.give_up(reason, "a response is larger than what may be held", rest))
        self._pass_unfinished()

    def _pass_unfinished(self) -> None:
        """Where nothing is judged any more, what there is of a message goes on."""
        if self.gate.state == PASSING and self._response is not None and (rest := self._response.unfinished()):
            self._send_window.send(self._id, rest)

    def trailers(self, block: ResponseBlock) -> bytes | None:
        """The response ends with `block`, which waits for what is judged."""
        if self.gate.state != DONE:
            self._trailing = block
            if self.guarded.wants_trailing:
                self.note_trailing(self.guarded, block)
            self._end_response(block.grpc_status)
        return b""

    def _end_response(self, status: str) -> None:
        gate, trailing = self.gate, self._trailing
        assert trailing is not None
        if self._response is not None and gate.state != PASSING:
            rest = self._response.unfinished()
            # of a call that failed, the status tells that it did
            if rest and (status in ("0", "") or not self._context.guard.fails_closed(self.guarded)):
                self._charge(len(rest))
                self._do(gate.pass_unjudged(rest, "the response ends inside a message"))
        if gate.state == DONE:
            return
        if trailing.verdicts and gate.state != PASSING and self._accepts(self.guarded, trailing):
            self._accepted = True
            self._do(gate.on_accepted(succeeded=status == "0"))
        elif actions := gate.on_end(succeeded=status == "0"):
            self._do(actions)

    def hold(self, frame: bytes) -> None:
        """The upstream resets the stream, behind its trailers or in their place: what came before goes first."""
        self._held = [*self._held, frame]
        self.response_ended = True
        self._do(self.gate.on_reset())

    # -- what becomes of it

    def judged(self, call: Call) -> None:
        """A verdict is there."""
        gate = self.gate
        gate.request_is_whole = self.request_ended
        self._do(gate.on_verdict(call))
        if self._receive_window.later and not gate.waiting:
            self._catch_up()
        self._host.flush_after_batch()

    def on_deadline(self) -> None:
        """The scoring budget is spent."""
        gate = self.gate
        gate.request_is_whole = self.request_ended
        actions = gate.on_deadline()
        self._late_verdict = gate.late_verdict
        self._do(actions)
        self._pass_unfinished()
        if self._receive_window.later:
            self._catch_up()
        self._host.request_flush()

    def _on_answer(self, outcome: Outcome) -> None:
        """Somebody who was asked has answered, or has not."""
        self._asking = None
        self._do(self.gate.on_answer(outcome))
        if self._receive_window.later:
            self._catch_up()
        self._host.request_flush()

    def _catch_up(self) -> None:
        """The upstream goes on with a stream that waited for verdicts."""
        if not self.gate.awaits_verdict and not self._send_window.blocked(self._id):
            self._receive_window.release_credit(self._id, ended=self.response_ended)
            self._host.write_upstream()

    def drop(self) -> None:
        """Nobody waits any more."""
        if self.gate.state != DONE:
            self._stop_asking()
            self.gate.close()
        if self._size or self._response is not None:
            self._give_back()
        if self._receive_window.later:
            self._receive_window.release_credit(self._id, ended=self.response_ended)
        super().drop()
