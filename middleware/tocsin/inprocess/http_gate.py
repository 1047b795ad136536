"""What of an HTTP response may go on: segments of an exchange, held until they are judged."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from tocsin.exchange.exchange import Exchange, Segment
from tocsin.exchange.replies import Reply, verdict_event
from tocsin.inprocess.holding import Holding, Settled
from tocsin.judgement.batching import Batcher
from tocsin.judgement.call import StreamedCall
from tocsin.judgement.enforcement import Ask, Outcome
from tocsin.judgement.gate import Action
from tocsin.judgement.policy import Replacement

Answer = tuple[int, list[tuple[str, str]], bytes]  # another response: its status, header fields and body
Asking = Callable[[Ask], Answer | None]
AsyncAsking = Callable[[Ask], Awaitable[Answer | None]]


class _WaitingSegment:
    """A segment, and how many of its messages may not go on yet."""

    __slots__ = ("messages", "segment")

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.messages = len(segment.messages)


class HttpGate:
    """The response of one exchange on its way to the caller. `instead` is what replaced it, which ends it; `answer` is
    then the model's other response, where that is the replacement. `is_sent`: some of the response has gone out.
    """

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self._guard = exchange.guard
        self._holding = Holding(exchange.guard, exchange.call, asks=True)
        self._waiting: deque[_WaitingSegment] = deque()
        self._has_verdict_event = self._is_done = False
        self.answer: Reply | None = None
        self.is_sent = False

    @property
    def holds(self) -> bool:
        """Whether segments wait for their verdicts."""
        return self._guard.config.mode == "enforce"

    @property
    def instead(self) -> Replacement | None:
        """What took the response's place."""
        return self._holding.instead

    def accept(self, headers: Sequence[tuple[str, str]]) -> None:
        """Accept another Tocsin's verdict, where that is configured."""
        self._holding.accept(headers)

    def pass_on(self, segments: Sequence[Segment], ask: Asking, *, is_end: bool = False) -> bytes:
        """The bytes that may go on now that these segments, or the end, have come."""

        def outcome_of(step: Ask) -> Outcome:
            return self._outcome(ask(step))

        actions = self._take(segments, is_end)
        return self._released(self._holding.perform(actions, outcome_of), is_end)

    async def pass_on_aio(
        self, segments: Sequence[Segment], batcher: Batcher, ask: AsyncAsking, *, is_end: bool = False
    ) -> bytes:
        """The same in an event loop, where calls are judged in batches."""

        async def outcome_of(step: Ask) -> Outcome:
            return self._outcome(await ask(step))

        actions = self._take(segments, is_end)
        return self._released(await self._holding.perform_aio(actions, batcher, outcome_of), is_end)

    def close(self) -> None:
        """Nothing more comes of the response."""
        self._holding.on_closed()

    def _take(self, segments: Sequence[Segment], is_end: bool) -> list[Action]:
        """Report what has come; returns the gate's actions."""
        actions: list[Action] = []
        for segment in segments:
            if self._is_done and segment.messages:
                segment = self._beyond(segment)
            waiting = _WaitingSegment(segment)
            self._waiting.append(waiting)
            for content, fault in segment.messages:
                actions += self._holding.take(waiting, content, fault)
            if segment.is_done:
                self._is_done = True
                actions += self._holding.end()
        return [*actions, *self._holding.end()] if is_end else actions

    def _beyond(self, segment: Segment) -> Segment:
        """Count messages that come after the event that ends the stream. Only clients that do not know that event read
        them. Held responses drop them.
        """
        unjudged = self.exchange.call.on_response_message(
            None, ("undecodable", "a message follows the end of a stream")
        )
        if unjudged is not None:
            self._guard.judge([unjudged])
        return Segment(b"" if self.holds else segment.raw)

    def _outcome(self, answer: Answer | None) -> Outcome:
        """The messages of another response to the request."""
        if answer is None:
            return None
        status, headers, _ = answer
        read = self.exchange.messages_of(*answer)
        if read is None:
            return None
        messages, body = read
        self.answer = Reply(status, headers, body)
        return messages

    def _released(self, settled: Settled, is_end: bool) -> bytes:
        for waiting in settled.messages:
            waiting.messages -= 1
        parts: list[bytes] = []
        while self._waiting and not self._waiting[0].messages:
            segment = self._waiting.popleft().segment
            self._note_finished(segment)
            if segment.is_done:
                parts.append(self._verdict_event())
            parts.append(segment.raw)
        if settled.instead is not None:
            if not settled.instead.further:
                self.answer = None
            self._waiting.clear()
        elif is_end:
            parts.append(self._verdict_event())
        content = b"".join(parts)
        self.is_sent = self.is_sent or bool(content)
        return content

    def _note_finished(self, segment: Segment) -> None:
        """Remember the sequences whose end goes out: they get no second end if the response is stopped."""
        call, method = self.exchange.call, self.exchange.method
        if not self.holds or not isinstance(call, StreamedCall) or not method.stream.finish:
            return
        for content, _ in segment.messages:
            if content is not None and (sequence := method.finished_sequence(content)) is not None:
                call.complete.add(sequence)

    def _verdict_event(self) -> bytes:
        """The verdict as an event, once."""
        event = b"" if self._has_verdict_event else verdict_event(self.exchange)
        self._has_verdict_event = self._has_verdict_event or bool(event)
        return event
