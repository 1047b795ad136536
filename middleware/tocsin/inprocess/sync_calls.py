"""Calls of a guarded grpc.Channel, as callers hold them: what their response is, once it is judged."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from tocsin.inprocess.capture import Capture, with_verdict, without_verdicts
from tocsin.inprocess.channel import WrappedMethod
from tocsin.inprocess.holding import Holding
from tocsin.inprocess.withheld import Withheld, status_code, without_verdict
from tocsin.judgement.actions import Ask, Outcome

Asker = Callable[[Ask], Outcome]


def note_metadata(holding: Holding, inner: Any) -> None:
    """Keep what judging takes of the metadata of a response that is complete."""
    if holding.call.wants_initial:
        holding.note_initial(inner.initial_metadata())
    if holding.call.wants_trailing:
        holding.note_trailing(inner.trailing_metadata())


class GuardedCall(grpc.Call):  # type: ignore[misc]
    """A call whose trailing metadata carries the verdict."""

    def __init__(self, inner: Any, holding: Holding) -> None:
        self._inner = inner
        self._holding = holding

    def trailing_metadata(self) -> Any:
        return tuple(with_verdict(self._inner.trailing_metadata(), self._holding.call, self._holding.instead))

    def initial_metadata(self) -> Any:
        return tuple(without_verdicts(self._inner.initial_metadata()))

    def code(self) -> Any:
        return self._inner.code()

    def details(self) -> Any:
        return self._inner.details()

    def is_active(self) -> bool:
        return bool(self._inner.is_active())

    def time_remaining(self) -> Any:
        return self._inner.time_remaining()

    def cancel(self) -> Any:
        return self._inner.cancel()

    def add_callback(self, callback: Any) -> Any:
        return self._inner.add_callback(callback)


class GuardedFuture(GuardedCall, grpc.Future):  # type: ignore[misc]
    """A call under way: judged once, when its result is first asked for."""

    def __init__(self, inner: Any, holding: Holding, judge: Callable[[Any], Any]) -> None:
        super().__init__(inner, holding)
        self._judge = judge
        self._judged = False
        self._result: Any = None
        self._withheld: Withheld | None = None

    def result(self, timeout: float | None = None) -> Any:
        """The response, judged once, or what takes its place. Raises what the caller gets where that is an error."""
        try:
            message = self._inner.result(timeout)
        except grpc.RpcError as error:
            raise self._holding.failed(error, without_verdict) from None
        if not self._judged:
            self._judged = True
            try:
                self._result = self._judge(message)
            except Withheld as withheld:
                self._withheld = withheld
        if self._withheld is not None:
            raise self._withheld
        return self._result

    def trailing_metadata(self) -> Any:
        failed = self.exception()
        return self._withheld.trailing_metadata() if self._withheld and failed else super().trailing_metadata()

    def code(self) -> Any:
        return self._withheld.code() if self._withheld is not None else super().code()

    def details(self) -> Any:
        return self._withheld.details() if self._withheld is not None else super().details()

    def exception(self, timeout: float | None = None) -> Any:
        failed = self._inner.exception(timeout)
        if failed is not None:
            return self._holding.failed(failed, without_verdict)
        try:
            self.result(timeout)
        except Withheld as withheld:
            return withheld
        return None

    def traceback(self, timeout: float | None = None) -> Any:
        return self._inner.traceback(timeout)

    def cancelled(self) -> bool:
        return bool(self._inner.cancelled())

    def running(self) -> bool:
        return bool(self._inner.running())

    def done(self) -> bool:
        return bool(self._inner.done())

    def add_done_callback(self, fn: Any) -> None:
        self._inner.add_done_callback(lambda _: fn(self))


class GuardedStream(GuardedCall, grpc.RpcError):  # type: ignore[misc]
    """A stream of responses, judged as the guard says; in enforce, each message once its judgement is there."""

    def __init__(self, inner: Any, holding: Holding, guarded: WrappedMethod, capture: Capture, ask: Asker) -> None:
        super().__init__(inner, holding)
        self._guarded = guarded
        self._capture = capture
        self._ask = ask
        self._ready: deque[Any] = deque()
        self._withheld: Withheld | None = None
        self._finished = False

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        while not self._ready:
            if self._withheld is not None:
                raise self._withheld
            if self._finished:
                raise StopIteration
            self._advance()
        return self._ready.popleft()

    def _advance(self) -> None:
        """Take one more message, or the end."""
        try:
            message = next(self._inner)
            actions = self._holding.take(message, self._capture.content_of(message))
        except StopIteration:
            self._finished = True
            note_metadata(self._holding, self._inner)
            actions = self._holding.end()
        except BaseException as error:
            self._holding.on_closed()
            raise self._holding.failed(error, without_verdict) from None
        settled = self._holding.perform(actions, self._ask)
        if self._finished:
            self._holding.on_closed()
        self._ready.extend(settled.messages)
        if settled.instead is None:
            return
        self._finished = True
        self._ready.extend(self._guarded.message(content) for content in settled.instead.responses)
        if not settled.instead.responses:
            self._withheld = Withheld(settled.instead, self._holding.call, self._inner)
        self._inner.cancel()

    def code(self) -> Any:
        instead = self._holding.instead
        return super().code() if instead is None else status_code(instead)

    def details(self) -> Any:
        instead = self._holding.instead
        return super().details() if instead is None else instead.message
