"""What one guarded call may send on, as a state machine without sockets or gRPC: the same for every position.

A position (relay, client wrapper, server interceptor, external processor) reports what has come, and does what the gate
answers, in order:

    gate.on_message(item, content)   a message has come                    -> Judge, Release
    gate.on_verdict(piece)           a `Judge` is done                     -> Release, Ask, Replace, End
    gate.on_answer(responses)        an `Ask` is done                      -> Judge, Ask, Release, Replace, End
    gate.on_deadline()               the scoring budget is spent           -> Release, Replace, End
    gate.on_end()                    the response is complete              -> Judge, Replace, End

Items are whatever the position calls a message: the gate keeps them in their order and hands them back.
"""

from __future__ import annotations

from typing import Any, Final

from tocsin.judgement.actions import NOTHING, Action, Actions, Ask, Judge, Outcome, Replace
from tocsin.judgement.another_response import with_another_response
from tocsin.judgement.call import Call, Fault
from tocsin.judgement.enforcement import Enforcement, enforcement_steps
from tocsin.judgement.guard import Guard
from tocsin.judgement.outgoing import ACTING, DONE, HOLDING, PASSING, OutgoingResponse
from tocsin.judgement.policy import Replacement, failed_closed
from tocsin.verdict import Verdict

SECOND_MESSAGE: Final = "a response of one message has a second one"


class Gate(OutgoingResponse):
    """One call's responses. `holds`: they wait until they are judged; else they go on at once, and only the end waits.

    `can_retry`: the request may be sent again, once all of it is there (`request_is_whole`). `trusts_verdicts`: the
    end of a response of one message may bring a verdict that was made behind, or what judging takes, so that it is not
    judged before that.
    """

    __slots__ = ("_enforcement", "can_retry", "guard", "late_verdict", "request_is_whole", "trusts_verdicts")

    def __init__(
        self, guard: Guard, call: Call, *, holds: bool, can_retry: bool = False, trusts_verdicts: bool = False
    ) -> None:
        super().__init__(call, holds=holds)
        self.guard = guard
        self.can_retry = can_retry
        self.trusts_verdicts = trusts_verdicts
        self.request_is_whole = True
        self.late_verdict: Verdict | None = None  # what callers get when nobody waits for the real one any more
        self._enforcement: Enforcement | None = None  # what is done about a verdict

    @property
    def verdict(self) -> Verdict | None:
        """The one that callers get."""
        return self.late_verdict or self.call.verdict

    # -- the response

    def on_message(self, item: Any, content: bytes | None, fault: Fault | None = None) -> Actions:
        """A message has come, with its bytes or the reason why there are none."""
        call = self.call
        if self.state >= PASSING:
            return self._keep(item) if self.state == PASSING else NOTHING
        if self.came and not call.streams:
            return self.pass_unjudged(item, SECOND_MESSAGE)
        at_once = NOTHING
        if self.holds:
            self.came += 1
            self._items.append(item)
        else:
            at_once = self._keep(item)
        piece = call.on_response_message(content, fault)
        if piece is None or (self.trusts_verdicts and piece is call):
            return at_once
        if piece.verdict is not None:  # it was made behind
            return [*at_once, *self._decide(piece)]
        self.waiting += 1
        action = Judge(piece)
        return (*at_once, action) if at_once else (action,)

    def on_end(self, *, succeeded: bool = True) -> Actions:
        """The response is complete. Of a call that failed, what came before is judged, and nothing is missing."""
        self.has_ended = True
        call, state = self.call, self.state
        if state == HOLDING and self.waiting and not call.streams:  # the usual case
            return NOTHING
        if state == DONE:
            return NOTHING
        actions: list[Action] = []
        if state != PASSING:
            pieces = call.ended()
            if not pieces and (self.waiting or call.verdict is not None):
                return self._ending()
            if pieces:
                actions += self._submit(pieces)
            elif not call.streams:
                if call.response is not None or call.fault is not None:  # it waited for the end
                    actions += self._submit([call])
                elif succeeded and not self.came:
                    self.guard.give_up(call, "no_response", "the call succeeded without a response message")
                    if self.guard.fails_closed(call):
                        return self._refuse(call)
        return [*actions, *self._ending()]

    def on_accepted(self, *, succeeded: bool = True) -> Actions:
        """The response is complete, and its verdict was made behind."""
        self.has_ended = True
        return self._decide(self.call) if succeeded and self.state == HOLDING else self._ending()

    def on_reset(self) -> Actions:
        """The response ends before it is complete: what came of it is judged, and goes on."""
        if self.has_ended:
            return NOTHING
        self.has_ended = True
        actions: list[Action] = []
        if self.state != PASSING:
            actions += self._submit(self.call.ended())
        return [*actions, *self._ending()]

    # -- verdicts

    def on_verdict(self, piece: Call) -> Actions:
        """A piece is judged: what it covers goes on, or what its verdict asks for is done."""
        if self.state == ACTING:
            if self._enforcement is not None and piece is self._enforcement.waits_for:
                return self._advance(None)
            self.waiting -= 1  # what becomes of the response is not known yet
            if self._deferred is None:
                self._deferred = []
            self._deferred.append((piece, piece.response))
            return NOTHING
        if not self.waiting:  # nobody waits for it any more
            return NOTHING
        self.waiting -= 1
        return self._decide(piece)

    def on_answer(self, outcome: Outcome) -> Actions:
        """What came of an `Ask`."""
        return self._advance(outcome) if self.state == ACTING else NOTHING

    def on_deadline(self) -> Actions:
        """The scoring budget is spent."""
        call, guard = self.call, self.guard
        if not self.waiting or self.state != HOLDING:
            return NOTHING
        self.waiting = 0
        if not call.streams and call.verdict is not None:  # it is there, its bearer on the way
            return self._decide(call)
        call.is_late = True
        late = guard.late_verdict(call)
        if guard.fails_closed(call):
            self.late_verdict = late
            guard.acted(call, "refused")
            return self._replace(failed_closed(late))
        if call.verdict is None:  # of a stream, what was judged in time counts
            self.late_verdict = late
        return self.pass_the_rest()

    # -- what cannot be judged

    def give_up(self, reason: str, what: str, item: Any) -> Actions:
        """What has come cannot be held: it, all before it and all that follows pass, or nothing does."""
        self.guard.give_up(self.call, reason, what)
        if self.guard.fails_closed(self.call) or self.state == ACTING:  # what is withheld must not pass with it
            return self._refuse(self.call)
        self._items.append(item)
        return self.pass_the_rest()

    def pass_unjudged(self, item: Any, what: str) -> Actions:
        """Something came that is no part of a response to be judged: it goes out behind what is, as callers would see
        it without Tocsin, or nothing does.
        """
        _, (unjudged, *_) = with_another_response(self.call, None, (b"",))
        unjudged.model = self.guard.model_of(self.call)
        self.guard.give_up(unjudged, "undecodable", what)
        if self.guard.fails_closed(unjudged):
            return self._refuse(unjudged)
        if not self.came:
            self.call.verdict = unjudged.verdict
        if self.holds and self.state != PASSING:
            place = self._items.next_place
            self._keep(item)
            return self._release((place,))
        return self._keep(item)

    def replace(self, instead: Replacement) -> Actions:
        """Nothing of the response goes on, whatever is judged of it."""
        self.guard.acted(self.call, "refused")
        return self._replace(instead)

    def close(self) -> None:
        super().close()
        self._enforcement = None

    # -- inside

    def _decide(self, piece: Call) -> Actions:
        """Release what a judged piece covers, or begin what its verdict asks for."""
        verdict = piece.verdict
        if self.holds and verdict is not None:  # who only records gives none
            action = verdict.action
            if action != "pass" and action != "flag":
                can_retry = self.can_retry and self.request_is_whole
                steps = enforcement_steps(self.guard, piece, partially_sent=self.partially_sent, can_retry=can_retry)
                self._enforcement = Enforcement(piece, steps)
                self.state = ACTING
                return self._advance(None)
            self.guard.acted(piece, action)
        if piece.is_summary:
            piece.on_forwarded()
        return self._release(piece.message_indices)

    def _advance(self, outcome: Outcome) -> Actions:
        """Go on with what is done about a piece, and with what was judged meanwhile."""
        enforcement = self._enforcement
        assert enforcement is not None
        step = enforcement.advance(outcome)
        if step is not None:
            if isinstance(step, Ask):
                self.can_retry = False
            return (step,)
        self._enforcement = None
        if enforcement.replacement is not None:
            return self._replace(enforcement.replacement)
        self.state = HOLDING
        piece = enforcement.piece
        piece.on_forwarded()
        if not self._deferred:
            return self._release(piece.message_indices)
        actions = list(self._release(piece.message_indices))
        while self._deferred and self.state == HOLDING:
            another, response = self._deferred.pop(0)
            another.response = response
            actions += self._decide(another)
            another.forget()
        return [*actions, *self._ending()]

    def _refuse(self, call: Call) -> Actions:
        self.guard.acted(call, "refused")
        if call.verdict is not None:
            self.call.conclude(call.verdict)
        return self._replace(failed_closed(call.verdict))

    def _replace(self, instead: Replacement) -> Actions:
        """Drop what is held."""
        self.close()
        self.call.forget_requests()
        return (Replace(instead),)
