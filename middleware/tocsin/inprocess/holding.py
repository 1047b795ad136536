"""The gate, as clients and servers in process use it: the same for sync and aio.

`take` and `end` tell what has come; `settle` and `settle_aio` do what the gate says about that, and tell what goes on;
`on_closed` tells that nothing more comes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple

from tocsin.inprocess.capture import verdicts_in
from tocsin.judgement.accepting import accept_verdict
from tocsin.judgement.batching import Batcher
from tocsin.judgement.call import Call, Fault
from tocsin.judgement.enforcement import Ask, Judge, Outcome
from tocsin.judgement.gate import Actions, End, Gate, Release
from tocsin.judgement.guard import Guard
from tocsin.judgement.policy import Replacement
from tocsin.protocols.metadata import joined


class Settled(NamedTuple):
    """What goes on after a judgement: messages of the program's own, or `instead` something in their place, which ends
    the call.
    """

    messages: list[Any]
    instead: Replacement | None = None


class Holding:
    """One call's responses: messages of the program's own. Outside of enforce, they go on at once."""

    def __init__(self, guard: Guard, call: Call, asks: bool) -> None:
        self._guard = guard
        self._gate = Gate(guard, call, holds=guard.config.mode == "enforce", can_retry=asks)
        self.call = call
        self.instead: Replacement | None = None  # what took the response's place

    def take(self, message: Any, content: bytes | None, fault: Fault | None = None) -> Actions:
        """A message has come, with its bytes where they are known, or why they are not; what the gate says to that."""
        if content is None and fault is None:
            fault = "undecodable", f"there are no bytes of a {type(message).__name__}"
        return self._gate.on_message(message, content, fault)

    def note_initial(self, metadata: Iterable[tuple[str, Any]] | None) -> None:
        """The response's initial metadata: keep what judging takes of it."""
        self.call.initial_metadata = joined(metadata, self.call.wants_initial)

    def note_trailing(self, metadata: Iterable[tuple[str, Any]] | None) -> None:
        """The response's trailing metadata, before `end`: keep what judging takes of it."""
        self.call.trailing_metadata = joined(metadata, self.call.wants_trailing)

    def accept(self, trailing: Iterable[tuple[str, Any]] | None) -> None:
        """Take the verdict that was made behind, where that is configured, of a response of one message."""
        if self._guard.config.accept_verdicts and not self.call.streams and (texts := verdicts_in(trailing)):
            accept_verdict(self._guard, self.call, texts[-1])

    def failed(self, error: Any, without: Callable[[Any], Any]) -> Any:
        """A call's error as the program sees it: `without` the verdict that was written behind, unless that holds."""
        return error if self._guard.config.accept_verdicts else without(error)

    def end(self) -> Actions:
        """No more messages come; what the gate says to that."""
        return self._gate.on_end()

    def on_closed(self) -> None:
        """The call has ended, and what came of it is judged."""
        self._guard.on_call_closed(self.call)

    def settle(self, actions: Actions, ask: Callable[[Ask], Outcome]) -> Settled:
        """Do what the gate says, one after the other, and what it says to what came of that."""
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

    async def settle_aio(self, actions: Actions, batcher: Batcher, ask: Callable[[Ask], Awaitable[Outcome]]) -> Settled:
        """The same in an event loop, judged with what else comes in it."""
        gate, messages = self._gate, list[Any]()
        open_actions = deque(actions)
        while open_actions and self.instead is None:
            action = open_actions.popleft()
            if isinstance(action, Judge):
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
        """What needs nobody else: messages go on, or something takes their place."""
        if isinstance(action, Release):
            messages += action.items
        elif not isinstance(action, End):
            self.instead = action.instead
            self.on_closed()


class _VerdictWaiter:
    """Waits for a verdict, and asks the gate at once: afterwards the call is forgotten."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self.follows: asyncio.Future[Actions] = asyncio.get_running_loop().create_future()

    def judged(self, call: Call) -> None:
        """The call has its verdict."""
        follows = self._gate.on_verdict(call)
        if not self.follows.done():
            self.follows.set_result(follows)
