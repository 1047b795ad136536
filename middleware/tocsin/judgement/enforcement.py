"""What to do about a judged piece of a response, the same in every position.

`enforcement_steps` yields the next step and receives its outcome; the gate runs it.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import NamedTuple

import grpc

from tocsin.configuration.fields import Address
from tocsin.configuration.listener import UpstreamTls
from tocsin.judgement.call import Call
from tocsin.judgement.guard import Guard
from tocsin.judgement.policy import WITHHOLDS, Replacement, failed_closed
from tocsin.verdict import Verdict


class Ask(NamedTuple):
    """Send the call's request once more: to the model itself, or to `upstream`.

    The outcome is every message of the response: one, unless the method's responses stream. It is None when the call
    failed, took longer than `seconds`, or answered more than may be kept.
    """

    call: Call
    request: bytes
    seconds: float
    upstream: Address | None = None
    tls: UpstreamTls | None = None  # towards that upstream


class Judge:
    """Give this call its verdict. The outcome is None."""

    __slots__ = ("call",)

    def __init__(self, call: Call) -> None:
        self.call = call


Outcome = Sequence[bytes] | None
EnforcementSteps = Generator[Ask | Judge, Outcome, Replacement | None]


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
    another, pieces = call.answered_anew(request, responses)
    for piece in pieces:
        yield Judge(piece)
    guard.on_call_closed(another)
    return another.verdict


def _replaced_by(guard: Guard, call: Call, verdict: Verdict, responses: Sequence[bytes]) -> Replacement:
    call.conclude(verdict)
    guard.acted(call, verdict.action)
    return Replacement(tuple(responses), grpc.StatusCode.OK, "", b"", further=True)
