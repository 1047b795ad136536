"""A guarded response of HTTP between its exchange and its caller: what may go on, as the gate says.

No sockets and no waiting. A position reports what comes, does the `take_steps`, and then sends what there is to send:

    gated.take(segments); gated.end(); gated.lose()             # what comes of the response
    gated.on_verdict(call); gated.on_deadline()                 # what comes of judging it
    gated.on_answer(answer)                                     # and of asking again
    for step in gated.take_steps(): ...                         # calls to judge, requests to send once more
    gated.instead                                               # what takes its place from here on
    gated.is_finished                                           # its end may go on
    gated.take_ready()                                          # the bytes that may go on
"""

from __future__ import annotations

import time
from asyncio import TimerHandle
from collections.abc import Callable, Sequence
from typing import Final

from tocsin.exchange.exchange import Exchange
from tocsin.exchange.replies import Reply
from tocsin.exchange.segments import HeldSegments
from tocsin.exchange.treatment import DOCUMENT, UNJUDGED, Headers, ResponseTreatment, Segment
from tocsin.judgement.accepting import accept_verdict
from tocsin.judgement.actions import END, Actions, Ask, Judge, Outcome, Release, Replace
from tocsin.judgement.call import Call
from tocsin.judgement.gate import Gate
from tocsin.judgement.policy import Replacement
from tocsin.memory import MemoryAccount

Answer = tuple[int, list[tuple[str, str]], bytes]  # another response: its status, header fields and body
Step = Judge | Ask
_NO_STEPS: Final[Sequence[Step]] = ()
_DECODED: Final = 6  # bytes that a waiting message of JSON takes for each of its own: the values read of it, and copies


class GatedResponse:
    """One response. `holds`: it waits for its verdicts; `annotates`: it carries them.

    `keeps` is false where its bytes go on as they come, whatever is judged; `charges`, where their memory is counted
    elsewhere. `is_complete`: all of it has come; `is_lost`: as much as will. `is_cleared`: verdicts keep nothing back.
    `instead` is what replaced it, and `answer` the model's other response where that is what replaced it.
    """

    def __init__(
        self,
        exchange: Exchange,
        memory: MemoryAccount,
        added: Callable[[float], None],
        *,
        holds: bool,
        annotates: bool,
        can_retry: bool,
    ) -> None:
        self.exchange = exchange
        self.call = exchange.call
        self.holds = holds
        self.annotates = annotates
        self.gate = Gate(exchange.guard, exchange.call, holds=holds, can_retry=can_retry)
        self.treatment = UNJUDGED
        self.keeps = self.charges = True
        self.is_complete = self.is_lost = False
        self.is_cleared = not (holds or annotates)
        self.instead: Replacement | None = None
        self.answer: Reply | None = None
        self._memory = memory
        self._added = added
        self._segments = HeldSegments(exchange, holds=holds)
        self._ready: list[bytes] = []
        self._steps: list[Step] = []
        self._size = 0  # bytes that wait, as they were charged
        self._unread_bytes = 0  # of what is not complete, as they were charged
        self._kept_bytes = 0  # of messages that wait to be judged with others, as they were charged
        self._arrived = 0.0  # when what waits for verdicts came
        self._timer: TimerHandle | None = None
        self._give_up_asking: Callable[[], object] | None = None

    # -- what comes

    def begin(self, status: int, fields: Headers) -> ResponseTreatment:
        """The head has come; returns what is done to the response."""
        self.treatment = treatment = self.exchange.on_response_headers(status, fields)
        if not treatment.is_judged:
            self.gate.close()
            self.is_cleared = True
        return treatment

    def accept(self, text: str) -> bool:
        """Take the verdict that was made behind, of a response of one message; whether it is of use here."""
        return accept_verdict(self.exchange.guard, self.call, text)

    @property
    def may_accept(self) -> bool:
        """Whether a verdict that was made behind would be of use."""
        return self.treatment.is_judged and not self.call.streams

    def take(self, segments: Sequence[Segment]) -> None:
        """Parts of the response have come."""
        gate, memory, held = self.gate, self._memory, self._segments
        if self.charges or not self.keeps:  # else all of the response is charged as it comes
            self._count_unread(self.exchange.kept_bytes)
        for segment in segments:
            if self.instead is not None:
                return
            waiting = held.add(segment)
            segment = waiting.segment
            if self.keeps and self.charges and segment.raw:
                self.charge(len(segment.raw))
            for content, fault in segment.messages:
                if content is not None and memory.lacks_room:
                    content, fault = None, ("memory", "a message was not kept")
                self._do(gate.on_message(waiting, content, fault))
                if self.call.streams:
                    self._count_kept()
            if segment.is_done and not held.is_done:
                held.is_done = True
                self._do(gate.on_end())
        self._advance()

    def end(self, segments: Sequence[Segment]) -> None:
        """All of the response has come, with these last parts."""
        self.is_complete = True
        self.take(segments)
        if self.instead is None:
            self._do(self.gate.on_end())

    def lose(self) -> None:
        """No more of the response comes, and its end has not."""
        self.is_complete = self.is_lost = True
        self._do(self.gate.on_reset())

    # -- what comes of judging it

    def on_verdict(self, call: Call) -> None:
        """A call has its verdict."""
        self._do(self.gate.on_verdict(call))

    def on_deadline(self) -> None:
        """The scoring budget is spent."""
        self._timer = None
        actions = self.gate.on_deadline()
        if self.gate.late_verdict is not None:
            self.call.verdict = self.gate.late_verdict
        self._do(actions)
        self._advance()

    def on_answer(self, answer: Answer | None) -> None:
        """A request that was sent once more has been answered, or has failed."""
        self._give_up_asking = None
        outcome: Outcome = None
        if answer is not None:
            status, fields, content = answer
            if (messages := self.exchange.messages_of(status, fields, content)) is not None:
                outcome, body = messages
                self.answer = Reply(status, fields, body)
        self._do(self.gate.on_answer(outcome))

    # -- what the position does next

    def take_steps(self) -> Sequence[Step]:
        """What to do next: calls to judge, and requests to send once more."""
        if not self._steps:
            return _NO_STEPS
        steps, self._steps = self._steps, []
        self._arrived = self._arrived or time.perf_counter()
        return steps

    def wait_for_answer(self, give_up: Callable[[], object]) -> None:
        """A request is sent once more, which this gives up."""
        self._give_up_asking = give_up

    @property
    def needs_deadline(self) -> bool:
        """Whether something waits for verdicts without a limit."""
        if self._timer is not None or not self.gate.waiting or self.instead is not None:
            return False
        if self.holds:
            return True
        return self.annotates and (self.treatment.kind == DOCUMENT or self._segments.is_done or self.gate.has_ended)

    def wait_until(self, timer: TimerHandle | None) -> None:
        """What waits waits so long."""
        self._timer = timer

    @property
    def is_finished(self) -> bool:
        """Whether the end may go on."""
        return self.is_cleared and self.is_complete

    @property
    def has_ready(self) -> bool:
        """Whether there are bytes that may go on."""
        return bool(self._ready)

    def take_ready(self) -> bytes:
        """The bytes that may go on."""
        content = b"".join(self._ready)
        self._ready.clear()
        if self.charges:
            self.free(len(content))
        return content

    def finish(self) -> None:
        """The end goes on, with everything before it."""
        self.end_waiting()
        self._advance()
        if self.keeps and self.annotates and not self.is_lost and (event := self._segments.verdict_event()):
            self._ready.append(event)

    def end_waiting(self) -> None:
        """Nothing waits for a verdict any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._arrived:
            if self.keeps:
                self._added(time.perf_counter() - self._arrived)
            self._arrived = 0.0

    # -- what the gate says

    def _do(self, actions: Actions) -> None:
        for action in actions:
            if action is END:
                self.is_cleared = True
                self._advance()
            elif isinstance(action, Release):
                self._segments.release(action.items)
                self._advance()
            elif isinstance(action, Replace):
                self.instead = action.instead
                self.end_waiting()
                if not action.instead.further:
                    self.answer = None
                self._segments.clear()
            elif isinstance(action, (Judge, Ask)):
                self._steps.append(action)

    def _advance(self) -> None:
        ready = self._segments.take_ready(is_cleared=self.is_cleared, tells=self.keeps and self.annotates)
        if self.keeps and ready:
            self._ready += ready

    # -- memory, and the end

    def charge(self, size: int) -> None:
        """So many bytes are kept."""
        self._size += size
        self._memory.charge(size)

    def free(self, size: int) -> None:
        """So many bytes have left; some of them may never have been charged."""
        size = min(size, self._size)
        self._size -= size
        self._memory.release(size)

    def free_all(self) -> None:
        """Nothing is kept any more."""
        self.free(self._size)

    def _count_unread(self, unread_bytes: int) -> None:
        """Count what cannot be read yet, because the rest of it is missing."""
        size, self._unread_bytes = unread_bytes - self._unread_bytes, unread_bytes
        if size > 0:
            self._memory.charge(size)
        elif size:
            self._memory.release(-size)

    def _count_kept(self) -> None:
        """Count the messages that wait to be judged with others."""
        kept_bytes = self.call.kept_bytes * _DECODED
        size, self._kept_bytes = kept_bytes - self._kept_bytes, kept_bytes
        if size > 0:
            self._memory.charge(size)
        elif size:
            self._memory.release(-size)

    def drop_ready(self) -> None:
        """What might have gone on does not."""
        self._ready.clear()

    def drop(self) -> None:
        """Nothing more goes out: give back what was kept, and give up what was asked."""
        if self._give_up_asking is not None:
            self._give_up_asking()
            self._give_up_asking = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._segments.clear()
        self._ready.clear()
        self._steps.clear()
        self.free_all()
        self._memory.release(self._kept_bytes + self._unread_bytes)
        self._kept_bytes = self._unread_bytes = 0
        if self.call.streams:  # what is not counted any more is not kept either
            self.call.forget()
        self.exchange.forget_response()
        self.exchange.guard.on_call_closed(self.call)
