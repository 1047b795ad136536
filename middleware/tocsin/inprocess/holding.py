"""Responses of one call in a program, as they come and as they go on: the same for clients and servers, sync and aio.

`take` and `end` tell what is to be judged; `settle` and `settle_aio` judge it and tell what goes on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from tocsin.inprocess.capture import Received
from tocsin.judgement.acting import Ask, acting, goes_out
from tocsin.judgement.batching import Batcher
from tocsin.judgement.call import Call
from tocsin.judgement.guard import Guard
from tocsin.judgement.policy import Replacement


class Settled(NamedTuple):
    """What goes on after a judgement: messages, or `instead` something in their place, which ends the call."""

    messages: list[Received]
    instead: Replacement | None = None


NOTHING = Settled([])


class Holding:
    """One call's responses. Outside of enforce, messages go on at once."""

    def __init__(self, guard: Guard, call: Call, asks: bool) -> None:
        self._guard = guard
        self.call = call
        self._asks = asks
        self.holds = guard.config.mode == "enforce"
        self.instead: Replacement | None = None  # what took the response's place
        self._held: list[Received] = []
        self._begun = False

    def take(self, received: Received) -> Call | None:
        """A message has come; what is to be judged now."""
        self._held.append(received)
        return self.call.answered(received.content)

    def end(self) -> Call | None:
        """No more messages come; what is to be judged still."""
        return self.call.ended()

    def passing(self) -> Settled:
        """What goes on when nothing is to be judged now."""
        if self.holds or not self._held:
            return NOTHING
        return self._release()

    def settle(self, piece: Call, ask: Callable[[Ask], bytes | None]) -> Settled:
        """Judge a piece, and do what its verdict says."""
        guard = self._guard
        guard.judge([piece])
        if guard.shadows:
            guard.shadow([piece])
        if not self.holds or self._goes_out(piece):
            return self._release()
        steps = acting(guard, piece, begun=self._begun, asks=self._asks)
        came = None
        try:
            while True:
                step = steps.send(came)
                came = None
                if isinstance(step, Ask):
                    came = ask(step)
                else:
                    guard.judge([step.call])
        except StopIteration as done:
            return self._done(done.value)

    async def settle_aio(self, piece: Call, batcher: Batcher, ask: Callable[[Ask], Awaitable[bytes | None]]) -> Settled:
        """The same in an event loop, judged with what else came in this turn of it."""
        request, response = piece.request, piece.response
        await batcher.judged(piece)
        if not self.holds or self._goes_out(piece):
            return self._release()
        piece.request, piece.response = request, response
        steps = acting(self._guard, piece, begun=self._begun, asks=self._asks)
        came = None
        try:
            while True:
                step = steps.send(came)
                came = None
                if isinstance(step, Ask):
                    came = await ask(step)
                else:
                    await batcher.judged(step.call)
        except StopIteration as done:
            return self._done(done.value)

    def _done(self, instead: Replacement | None) -> Settled:
        self.instead = instead
        return self._release() if instead is None else Settled([], instead)

    def _goes_out(self, piece: Call) -> bool:
        if not goes_out(piece):
            return False
        if piece.verdict is not None and piece.verdict.unscored is None:
            self._guard.acted(piece, piece.verdict.action)
        return True

    def _release(self) -> Settled:
        held, self._held = self._held, []
        self._begun = True
        return Settled(held)
