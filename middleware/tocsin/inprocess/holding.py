"""Responses of one call in a program, as they come and as they go on: the same for clients and servers, sync and aio.

`take` and `end` tell what is to be judged; `settle` and `settle_aio` judge it and tell what goes on; `over` tells that
nothing more comes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from typing import Any, NamedTuple

from tocsin.inprocess.capture import verdicts_in
from tocsin.judgement.accepting import accept_verdict
from tocsin.judgement.batching import Batcher
from tocsin.judgement.call import Call
from tocsin.judgement.enforcement import Ask, Judge, Outcome, enforcement_steps, goes_out
from tocsin.judgement.guard import Guard
from tocsin.judgement.policy import Replacement


class Settled(NamedTuple):
    """What goes on after a judgement: messages of the program's own, or `instead` something in their place, which ends
    the call.
    """

    messages: list[Any]
    instead: Replacement | None = None


class Holding:
    """One call's responses. Outside of enforce, messages go on at once."""

    def __init__(self, guard: Guard, call: Call, asks: bool) -> None:
        self._guard = guard
        self.call = call
        self._asks = asks
        self.holds = guard.config.mode == "enforce"
        self.instead: Replacement | None = None  # what took the response's place
        self._held: deque[Any] = deque()  # messages of the program's own
        self._first = 0  # the place in the response of the first that is held
        self._cleared: set[int] = set()  # places of those that may go on
        self._partially_sent = False

    def take(self, message: Any, content: bytes | None) -> list[Call]:
        """A message has come, with its bytes where they are known; what is to be judged now."""
        self._held.append(message)
        fault = None if content is not None else ("undecodable", f"there are no bytes of a {type(message).__name__}")
        piece = self.call.on_response_message(content, fault)
        return [] if piece is None else [piece]

    def accept(self, trailing: Iterable[tuple[str, Any]] | None) -> None:
        """Take the verdict that was made behind, where that is configured, of a response of one message."""
        if self._guard.config.accept_verdicts and not self.call.streams and (texts := verdicts_in(trailing)):
            accept_verdict(self._guard, self.call, texts[-1])

    def failed(self, error: Any, without: Callable[[Any], Any]) -> Any:
        """A call's error as the program sees it: `without` the verdict that was written behind, unless that holds."""
        return error if self._guard.config.accept_verdicts else without(error)

    def end(self) -> list[Call]:
        """No more messages come; what is to be judged still."""
        return self.call.ended()

    def on_closed(self) -> None:
        """The call has ended, and what came of it is judged."""
        self._guard.on_call_closed(self.call)

    def settle(self, pieces: Sequence[Call], ask: Callable[[Ask], Outcome]) -> Settled:
        """Judge pieces, and do what their verdicts say."""
        guard, steps = self._guard, self._settling(pieces)
        came: Outcome = None
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
        self, pieces: Sequence[Call], batcher: Batcher, ask: Callable[[Ask], Awaitable[Outcome]]
    ) -> Settled:
        """The same in an event loop, judged with what else comes in it."""
        steps = self._settling(pieces)
        came: Outcome = None
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

    def _settling(self, pieces: Sequence[Call]) -> Generator[Ask | Judge, Outcome, Settled]:
        """What is to be asked and judged, one after the other, and what goes on then."""
        messages: list[Any] = []
        if not self.holds:
            messages, self._held = list(self._held), deque()
        for piece in pieces:
            request, response = piece.request, piece.response
            if piece.verdict is None:  # else it was made behind
                yield Judge(piece)
            if not self.holds:
                continue
            if self._goes_out(piece):
                messages += self._release(piece)
                continue
            piece.request, piece.response = request, response
            self.instead = yield from self._act(piece)
            piece.forget()
            if self.instead is not None:
                self.on_closed()
                break
            messages += self._release(piece)
        return Settled(messages, self.instead)

    def _act(self, piece: Call) -> Generator[Ask | Judge, Outcome, Replacement | None]:
        """Do what a verdict asks for. Others are asked for one piece of a response alone."""
        steps = enforcement_steps(self._guard, piece, partially_sent=self._partially_sent, can_retry=self._asks)
        came: Outcome = None
        try:
            while True:
                step = steps.send(came)
                if isinstance(step, Ask):
                    self._asks = False
                came = yield step
        except StopIteration as done:
            instead: Replacement | None = done.value
            return instead

    def _goes_out(self, piece: Call) -> bool:
        if not goes_out(piece):
            return False
        if piece.verdict is not None and piece.verdict.unscored is None:
            self._guard.acted(piece, piece.verdict.action)
        return True

    def _release(self, piece: Call) -> list[Any]:
        """The messages that may go on once a piece may, in their order."""
        piece.on_forwarded()
        self._cleared.update(piece.message_indices)
        ready = []
        while self._held and self._first in self._cleared:
            self._cleared.discard(self._first)
            self._first += 1
            ready.append(self._held.popleft())
        self._partially_sent = self._partially_sent or bool(ready)
        return ready
