"""Responses of one call in a program, as they come and as they go on: the same for clients and servers, sync and aio.

`take` and `end` tell what is to be judged; `settle` and `settle_aio` judge it and tell what goes on; `over` tells that
nothing more comes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import NamedTuple

from tocsin.inprocess.capture import Received
from tocsin.judgement.acting import Ask, Judge, acting, goes_out
from tocsin.judgement.batching import Batcher
from tocsin.judgement.call import Call
from tocsin.judgement.guard import Guard
from tocsin.judgement.policy import Replacement


class Settled(NamedTuple):
    """What goes on after a judgement: messages, or `instead` something in their place, which ends the call."""

    messages: list[Received]
    instead: Replacement | None = None


class Holding:
    """One call's responses. Outside of enforce, messages go on at once."""

    def __init__(self, guard: Guard, call: Call, asks: bool) -> None:
        self._guard = guard
        self.call = call
        self._asks = asks
        self.holds = guard.config.mode == "enforce"
        self.instead: Replacement | None = None  # what took the response's place
        self._held: deque[Received] = deque()
        self._first = 0  # the place in the response of the first that is held
        self._cleared: set[int] = set()  # places of those that may go on
        self._begun = False

    def take(self, received: Received) -> list[Call]:
        """A message has come; what is to be judged now."""
        self._held.append(received)
        piece = self.call.answered(received.content)
        return [] if piece is None else [piece]

    def end(self) -> list[Call]:
        """No more messages come; what is to be judged still."""
        return self.call.ended()

    def over(self) -> None:
        """The call has ended, and what came of it is judged."""
        self._guard.over(self.call)

    def settle(self, pieces: Sequence[Call], ask: Callable[[Ask], bytes | None]) -> Settled:
        """Judge pieces, and do what their verdicts say."""
        guard, steps, came = self._guard, self._settling(pieces), None
        try:
            while True:
                step = steps.send(came)
                came = None
                if isinstance(step, Ask):
                    came = ask(step)
                else:
                    guard.judge([step.call])
                    if guard.shadows and step.call in pieces:
                        guard.shadow([step.call])
                    step.call.forget()
        except StopIteration as done:
            settled: Settled = done.value
            return settled

    async def settle_aio(
        self, pieces: Sequence[Call], batcher: Batcher, ask: Callable[[Ask], Awaitable[bytes | None]]
    ) -> Settled:
        """The same in an event loop, judged with what else comes in it."""
        steps, came = self._settling(pieces), None
        while True:
            try:
                step = steps.send(came)
            except StopIteration as done:
                settled: Settled = done.value
                return settled
            came = None
            if isinstance(step, Ask):
                came = await ask(step)
            else:
                await batcher.judged(step.call)

    def _settling(self, pieces: Sequence[Call]) -> Generator[Ask | Judge, bytes | None, Settled]:
        """What is to be asked and judged, one after the other, and what goes on then."""
        messages: list[Received] = []
        if not self.holds:
            messages, self._held = list(self._held), deque()
        for piece in pieces:
            request, response = piece.request, piece.response
            yield Judge(piece)
            if not self.holds:
                continue
            if self._goes_out(piece):
                messages += self._release(piece)
                continue
            piece.request, piece.response = request, response
            self.instead = yield from acting(self._guard, piece, begun=self._begun, asks=self._asks)
            piece.forget()
            if self.instead is not None:
                self.over()
                break
            messages += self._release(piece)
        return Settled(messages, self.instead)

    def _goes_out(self, piece: Call) -> bool:
        if not goes_out(piece):
            return False
        if piece.verdict is not None and piece.verdict.unscored is None:
            self._guard.acted(piece, piece.verdict.action)
        return True

    def _release(self, piece: Call) -> list[Received]:
        """The messages that may go on once a piece may, in their order."""
        piece.goes_on()
        self._cleared.update(piece.places)
        ready = []
        while self._held and self._first in self._cleared:
            self._cleared.discard(self._first)
            self._first += 1
            ready.append(self._held.popleft())
        self._begun = self._begun or bool(ready)
        return ready
