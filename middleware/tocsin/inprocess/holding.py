"""The gate for clients and servers in process, sync and aio.

`take` and `end` report what has come. `perform` and `perform_aio` carry out the gate's actions and return what goes on.
`on_closed` reports that nothing more comes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from functools import cached_property
from typing import Any, NamedTuple

from tocsin.inprocess.capture import verdicts_in
from tocsin.judgement.accepting import accept_verdict
from tocsin.judgement.actions import Actions, Ask, End, Judge, Outcome, Release
from tocsin.judgement.batching import Batcher
from tocsin.judgement.call import Call, Fault
from tocsin.judgement.gate import Gate
from tocsin.judgement.guard import Guard
from tocsin.judgement.policy import Replacement
from tocsin.protocols.metadata import joined_values


class Settled(NamedTuple):
    """What goes on after a judgement: messages of the program, or `instead`, which replaces them and ends the call."""

    messages: list[Any]
    instead: Replacement | None = None


class Holding:
    """The responses of one call, as the program's messages. Outside of enforce, they go on at once."""

    instead: Replacement | None = None  # what took the response's place

    def __init__(self, guard: Guard, call: Call, asks: bool) -> None:
        self._guard = guard
        self._asks = asks
        self.call = call
        self.holds = guard.config.mode == "enforce"

    @cached_property
    def _gate(self) -> Gate:
        return Gate(self._guard, self.call, holds=self.holds, can_retry=self._asks)

    def take(self, message: Any, content: bytes | None, fault: Fault | None = None) -> Actions:
        """A message has come, with its bytes where they are known, or a fault. Returns the gate's actions."""
        if content is None and fault is None:
            fault = _no_bytes(message)
        return self._gate.on_message(message, content, fault)

    def pass_only(self, message: Any, content: bytes | None) -> None:
        """The only message of a response that is not held has come, with its bytes where they are known: judge it here,
        as a gate would, which it takes none for.
        """
        guard = self._guard
        piece = self.call.on_response_message(content, None if content is not None else _no_bytes(message))
        if piece is None:
            return
        if piece.verdict is None:  # else it was made behind
            guard.judge([piece])
            if guard.shadows:
                guard.shadow([piece])
            piece.forget()

    @property
    def wants_metadata(self) -> bool:
        """Whether judging reads metadata of the response."""
        return bool(self.call.wants_initial or self.call.wants_trailing)

    def note_initial(self, metadata: Iterable[tuple[str, Any]] | None) -> None:
        """Keep what judging reads of the response's initial metadata."""
        self.call.initial_metadata = joined_values(metadata, self.call.wants_initial)

    def note_trailing(self, metadata: Iterable[tuple[str, Any]] | None) -> None:
        """Keep what judging reads of the response's trailing metadata; called before `end`."""
        self.call.trailing_metadata = joined_values(metadata, self.call.wants_trailing)

    def accept(self, trailing: Iterable[tuple[str, Any]] | None) -> None:
        """Accept another Tocsin's verdict, where that is configured and the response has one message."""
        if self._guard.config.accept_verdicts and not self.call.streams and (texts := verdicts_in(trailing)):
            accept_verdict(self._guard, self.call, texts[-1])

    def failed(self, error: Any, without: Callable[[Any], Any]) -> Any:
        """A call's error as the program sees it; `without` a verdict of another party that is not accepted."""
        return error if self._guard.config.accept_verdicts else without(error)

    def end(self) -> Actions:
        """No more messages come. Returns the gate's actions."""
        return self._gate.on_end()

    def on_closed(self) -> None:
        """The call has ended: judge what came of it."""
        self._guard.on_call_closed(self.call)

    def perform(self, actions: Actions, ask: Callable[[Ask], Outcome]) -> Settled:
        """Carry out the gate's actions one after the other, and those that follow from their outcomes."""
        guard, gate, messages = self._guard, self._gate, list[Any]()
        open_actions = deque(actions)
        while open_actions and self.instead is None:
            action = open_actions.popleft()
            if isinstance(action, Judge):
                guard.judge([action.call])
                follows = gate.on_verdict(action.call)
                if guard.shadows:
                    guard.shadow([action.call])
                action.call.forget()
            elif isinstance(action, Ask):
                follows = gate.on_answer(ask(action))
            else:
                self._go_on(action, messages)
                continue
            open_actions.extendleft(reversed(follows))
        return Settled(messages, self.instead)

    async def perform_aio(
        self, actions: Actions, batcher: Batcher, ask: Callable[[Ask], Awaitable[Outcome]], *, alone: bool = False
    ) -> Settled:
        """The same in an event loop, where calls are judged in batches. `alone`: at once, if none is expected."""
        gate, messages = self._gate, list[Any]()
        open_actions = deque(actions)
        while open_actions and self.instead is None:
            action = open_actions.popleft()
            if isinstance(action, Judge):
                if alone and batcher.judge_alone(action.call):
                    follows = gate.on_verdict(action.call)
                    action.call.forget()
                else:
                    waiting = _VerdictWaiter(gate)
                    batcher.submit(action.call, waiting)
                    follows = await waiting.follows
            elif isinstance(action, Ask):
                follows = gate.on_answer(await ask(action))
            else:
                self._go_on(action, messages)
                continue
            open_actions.extendleft(reversed(follows))
        return Settled(messages, self.instead)

    def _go_on(self, action: Any, messages: list[Any]) -> None:
        """Carry out the actions that need no verdict and no request: messages go on, or are replaced."""
        if isinstance(action, Release):
            messages += action.items
        elif not isinstance(action, End):
            self.instead = action.instead
            self.on_closed()


def _no_bytes(message: Any) -> Fault:
    return "undecodable", f"there are no bytes of a {type(message).__name__}"


class _VerdictWaiter:
    """Waits for a verdict and passes it to the gate at once, because the call is dropped afterwards."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self.follows: asyncio.Future[Actions] = asyncio.get_running_loop().create_future()

    def judged(self, call: Call) -> None:
        """The call has its verdict."""
        follows = self._gate.on_verdict(call)
        if not self.follows.done():
            self.follows.set_result(follows)
