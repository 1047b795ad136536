"""What is done about a judged piece of a response, the same wherever it is done: in the relay, a client or a server.

`acting` says what to do next and is told what came of it; whoever runs it does the asking and judging.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple

import grpc

from tocsin.configuration.fields import Address
from tocsin.configuration.listener import UpstreamTls
from tocsin.judgement.call import Call
from tocsin.judgement.guard import Guard
from tocsin.judgement.policy import WITHHOLDS, Replacement, failed_closed


class Ask(NamedTuple):
    """Send the call's request once more: to the model itself, or to `upstream`. The answer is a response, or None."""

    upstream: Address | None
    seconds: float
    tls: UpstreamTls | None = None  # towards that upstream


class Judge(NamedTuple):
    """Give this call its verdict. The answer is None."""

    call: Call


Acting = Generator[Ask | Judge, bytes | None, Replacement | None]


def goes_out(call: Call) -> bool:
    """Whether a judged piece goes out as it came: the usual case, for which nothing needs doing."""
    verdict = call.verdict
    return verdict is None or verdict.action == "pass" or verdict.action == "flag"


def acting(guard: Guard, call: Call, *, begun: bool, asks: bool) -> Acting:
    """What goes out in place of a judged piece, None when it goes out as it came.

    `begun`: parts of the response have gone out already, and cannot be recalled. `asks`: the request is there to be
    sent again.
    """
    verdict = call.verdict
    if verdict is None:
        return None
    if verdict.unscored is not None:
        if verdict.action != "block":
            return None
        guard.acted(call, "refused")
        return failed_closed(verdict)
    model = guard.models[call.model]
    action, config = verdict.action, model.config
    withheld = call.response
    again = asks and not call.reads.requests_stream and not begun and call.request is not None
    if action == "retry":
        if again and config.retry is not None:
            for _ in range(model.policy.tries):
                response = yield Ask(None, config.retry.deadline.total_seconds())
                if response is None:
                    continue
                tried = call.with_response(response)
                yield Judge(tried)
                if tried.verdict is not None and tried.verdict.action not in WITHHOLDS:
                    call.verdict = tried.verdict
                    guard.acted(call, "retry")
                    return Replacement((response,), grpc.StatusCode.OK, "", b"")
        action = model.policy.settled("retry")
    if action == "fallback":
        if again and config.fallback is not None:
            fallback = config.fallback
            response = yield Ask(fallback.upstream, fallback.deadline.total_seconds(), fallback.tls)
            if response is not None:
                guard.acted(call, "fallback")
                return Replacement((response,), grpc.StatusCode.OK, "", b"")
        action = model.policy.settled("fallback")
    guard.acted(call, action)
    return model.policy.replacement(action, call, withheld, begun=begun) if action in WITHHOLDS else None
