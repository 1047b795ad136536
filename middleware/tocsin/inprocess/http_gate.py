"""What of an HTTP response may go on: segments of an exchange, held until they are judged."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from tocsin.exchange.exchange import Exchange
from tocsin.exchange.gated import Answer
from tocsin.exchange.replies import Reply
from tocsin.exchange.segments import HeldSegments
from tocsin.exchange.treatment import Segment
from tocsin.inprocess.holding import Holding, Settled
from tocsin.judgement.actions import Action, Ask, Outcome
from tocsin.judgement.batching import Batcher
from tocsin.judgement.policy import Replacement

Asking = Callable[[Ask], Answer | None]
AsyncAsking = Callable[[Ask], Awaitable[Answer | None]]


class HttpGate:
    """The response of one exchange on its way to the caller. `instead` is what replaced it, which ends it; `answer` is
    then the model's other response, where that is the replacement. `is_sent`: some of the response has gone out.
    """

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self._guard = exchange.guard
        self._holding = Holding(exchange.guard, exchange.call, asks=True)
        self._segments = HeldSegments(exchange, holds=self.holds)
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
            waiting = self._segments.add(segment)
            for content, fault in waiting.segment.messages:
                actions += self._holding.take(waiting, content, fault)
            if segment.is_done:
                self._segments.is_done = True
                actions += self._holding.end()
        return [*actions, *self._holding.end()] if is_end else actions

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
        """The bytes of what the gate let go, or of nothing more where something takes the response's place."""
        segments = self._segments
        segments.release(settled.messages)
        parts = segments.take_ready(is_cleared=True, tells=True)  # whatever has come is judged
        if settled.instead is not None:
            if not settled.instead.further:
                self.answer = None
            segments.clear()
        elif is_end:
            parts.append(segments.verdict_event())
        content = b"".join(parts)
        self.is_sent = self.is_sent or bool(content)
        return content
