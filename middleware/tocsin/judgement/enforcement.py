"""What to do about a judged piece of a response, the same in every position.

`enforcement_steps` yields the next step and receives its outcome; the gate runs it by an `Enforcement`.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence

from tocsin.grpc_wire.status import Status
from tocsin.judgement.actions import Ask, Judge, Outcome
from tocsin.judgement.another_response import with_another_response
from tocsin.judgement.call import Call
from tocsin.judgement.guard import Guard
from tocsin.judgement.policy import WITHHOLDS, Replacement, failed_closed
from tocsin.verdict import Verdict

log = logging.getLogger("tocsin")

EnforcementSteps = Generator[Ask | Judge, Outcome, Replacement | None]


class Enforcement:
    """What is being done about one judged piece of a response, step by step.

    `waits_for` is the call that a `Judge` among the steps gives a verdict. Once there are no more steps, `replacement`
    takes the place of the response; None: the piece goes out unchanged.
    """

    def __init__(self, piece: Call, steps: EnforcementSteps) -> None:
        self.piece = piece
        self.waits_for: Call | None = None
        self.replacement: Replacement | None = None
        self._steps = steps

    def advance(self, outcome: Outcome) -> Ask | Judge | None:
        """The next step, given the outcome of the one before; None: there are no more. A step that raises is logged,
        and the response refused.
        """
        self.waits_for = None
        try:
            step = self._steps.send(outcome)
        except StopIteration as done:
            self.replacement = done.value
            return None
        except Exception as error:
            log.error("model %s: acting on a verdict failed: %s: %s", self.piece.model, type(error).__name__, error)
            self.replacement = failed_closed(self.piece.verdict)
            return None
        if isinstance(step, Judge):
            self.waits_for = step.call
        return step


def enforcement_steps(guard: Guard, call: Call, *, partially_sent: bool, can_retry: bool) -> EnforcementSteps:
    """Decide what replaces a judged piece; the generator returns None when the piece goes out unchanged. Callers then
    see the verdict that was acted upon, and its action says what was done.

    `partially_sent`: parts of the response have gone out and cannot be recalled. `can_retry`: the request can be sent
    again, and was not sent again for this response before.
    """
    verdict = call.verdict
    if verdict is None:
        return None
    if verdict.unscored is not None:
        if verdict.action != "block":
            return None
        guard.acted(call, "refused")
        call.conclude(verdict)
        return failed_closed(verdict)
    model = guard.models[call.model]
    action, config = verdict.action, model.config
    withheld, request = call.response, call.request
    again = can_retry and not call.reads.requests_stream and not partially_sent
    if action == "retry":
        if again and request is not None and config.retry is not None:
            for _ in range(model.policy.tries):
                responses = yield Ask(call, request, config.retry.deadline.total_seconds())
                if not responses:
                    continue
                further = yield from _judged(guard, call, request, responses)
                if further is not None and further.action not in WITHHOLDS:
                    further.action = "retry"
                    return _replaced_by(guard, call, further, responses)
        action = model.policy.action_without_asking("retry")
    if action == "fallback":
        if again and request is not None and config.fallback is not None:
            fallback = config.fallback
            responses = yield Ask(call, request, fallback.deadline.total_seconds(), fallback.upstream, fallback.tls)
            if responses:
                verdict.action = "fallback"
                return _replaced_by(guard, call, verdict, responses)
        action = model.policy.action_without_asking("fallback")
    verdict.action = action
    guard.acted(call, action)
    if action not in WITHHOLDS:
        return None
    call.conclude(verdict)
    return model.policy.replacement(action, call, withheld, partially_sent=partially_sent)


def _judged(
    guard: Guard, call: Call, request: bytes | None, responses: Sequence[bytes]
) -> Generator[Judge, Outcome, Verdict | None]:
    """The verdict on another response to the same request; for a stream, the most severe of its pieces."""
    another, pieces = with_another_response(call, request, responses)
    for piece in pieces:
        yield Judge(piece)
    guard.on_call_closed(another)
    return another.verdict


def _replaced_by(guard: Guard, call: Call, verdict: Verdict, responses: Sequence[bytes]) -> Replacement:
    call.conclude(verdict)
    guard.acted(call, verdict.action)
    return Replacement(tuple(responses), Status.OK, "", b"", further=True)
