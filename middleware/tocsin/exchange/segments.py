"""The segments of a response in their order: each goes on once all messages in it, and before it, may."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from tocsin.exchange.exchange import Exchange
from tocsin.exchange.replies import verdict_event
from tocsin.exchange.treatment import Segment
from tocsin.judgement.call import Fault, StreamedCall

MESSAGE_AFTER_END: Final[Fault] = ("undecodable", "a message follows the end of a stream")


class HeldSegment:
    """A segment, and how many of its messages may not go on yet. One that says that nothing follows waits for all that
    is judged before it, too.
    """

    __slots__ = ("messages", "segment")

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.messages = len(segment.messages) + (1 if segment.is_done else 0)


class HeldSegments:
    """The segments of one response. `holds`: the response waits for its verdicts. `is_done`: it has said that nothing
    follows.
    """

    def __init__(self, exchange: Exchange, *, holds: bool) -> None:
        self.is_done = False
        self._exchange = exchange
        self._holds = holds
        self._notes_ends = holds and isinstance(exchange.call, StreamedCall) and bool(exchange.method.stream.finish)
        self._waiting: deque[HeldSegment] = deque()
        self._has_verdict_event = False

    def add(self, segment: Segment) -> HeldSegment:
        """A segment has come. Messages behind the one that ends the stream, which only clients read that do not know
        it, are counted; where responses are held, they do not go on.
        """
        if self.is_done and segment.messages:
            unjudged = self._exchange.call.on_response_message(None, MESSAGE_AFTER_END)
            if unjudged is not None:
                self._exchange.guard.judge([unjudged])
            segment = Segment(b"" if self._holds else segment.raw)
        waiting = HeldSegment(segment)
        self._waiting.append(waiting)
        return waiting

    def release(self, items: Iterable[HeldSegment]) -> None:
        """A message of each of these may go on."""
        for waiting in items:
            waiting.messages -= 1

    def take_ready(self, *, is_cleared: bool, tells: bool) -> list[bytes]:
        """The bytes that may go on now. `is_cleared`: everything is judged, so that an end may go, too; `tells`: before
        it, the verdict.
        """
        waiting = self._waiting
        if not waiting:
            return []
        ready = list[bytes]()
        while waiting and waiting[0].messages <= (1 if is_cleared and waiting[0].segment.is_done else 0):
            segment = waiting.popleft().segment
            if self._notes_ends:
                self._note_ends(segment)
            if tells and segment.is_done and (event := self.verdict_event()):
                ready.append(event)
            if segment.raw:
                ready.append(segment.raw)
        return ready

    def verdict_event(self) -> bytes:
        """The verdict as an event, once; empty where it cannot be sent."""
        event = b"" if self._has_verdict_event else verdict_event(self._exchange)
        self._has_verdict_event = self._has_verdict_event or bool(event)
        return event

    def clear(self) -> None:
        """Nothing more goes on."""
        self._waiting.clear()

    def _note_ends(self, segment: Segment) -> None:
        """Remember the sequences whose end goes out: they get no second end if the response is stopped."""
        call, method = self._exchange.call, self._exchange.method
        assert isinstance(call, StreamedCall)
        for content, _ in segment.messages:
            if content is not None and (sequence := method.finished_sequence(content)) is not None:
                call.complete.add(sequence)
