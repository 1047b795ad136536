"""What is computed once for many calls: for a method, and for metadata that callers send repeatedly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from tocsin.judgement.call import Call, StreamedCall
from tocsin.protocols.method import Method

HEX: Final = "0123456789abcdef"
NO_TRACE: Final = "0" * 32


class MethodPlan(NamedTuple):
    """How the calls of a guarded method are judged, whichever of its models they are for."""

    reads: Method
    wants_request: bool
    every: int  # of so many messages of a stream, one judgement
    together: bool  # parallel answers are judged as one
    in_turn: bool  # each request of a stream has one response, in their order
    initial: Sequence[str]  # keys of the response's metadata that judging takes
    trailing: Sequence[str]


class CallPlan:
    """A method's plan with what is read from a request's metadata: the `keys` that judgement reads, the caller's W3C
    `traceparent` and the `trace` it names, and the model's name in `hint`, where metadata hold it. Calls with equal
    metadata share one. `may_run`: messages that come together may be judged together.
    """

    __slots__ = ("hint", "keys", "may_run", "of_method", "streams", "trace", "traceparent", "wants_metadata")

    def __init__(self, of_method: MethodPlan, keys: Mapping[str, str], traceparent: str) -> None:
        self.of_method = of_method
        self.keys = keys
        self.traceparent = traceparent
        self.trace = _trace_id(traceparent) if traceparent else ""
        model_key = of_method.reads.model_key
        self.hint = keys.get(model_key) if model_key else None
        self.streams = of_method.reads.streams
        matches_requests = of_method.wants_request and of_method.reads.requests_stream
        self.may_run = self.streams and of_method.every == 1 and not matches_requests
        self.wants_metadata = bool(of_method.initial or of_method.trailing)

    def new_call(self, hint: str, origin: str, *, takes_runs: bool) -> Call:
        """The call of one RPC. `hint` names the model where the metadata do not, `origin` the connection. With
        `takes_runs`, messages of a stream that come together may be judged together, where each is judged by itself.
        """
        reads, wants_request, every, together, in_turn, initial, trailing = self.of_method
        if self.streams:
            call: Call = StreamedCall(
                reads, self.keys, self.trace, wants_request, every, together=together, in_turn=in_turn
            )
            call.takes_runs = takes_runs and self.may_run
        else:
            call = Call(reads, self.keys, self.trace, wants_request)
        call.hint = hint if self.hint is None else self.hint
        call.origin = origin
        if self.wants_metadata:
            call.wants_initial, call.wants_trailing = initial, trailing
        return call


def _trace_id(traceparent: str) -> str:
    """The trace id of a W3C traceparent, or "" where there is none."""
    if len(traceparent) < 55 or not traceparent[2] == traceparent[35] == traceparent[52] == "-":
        return ""
    trace = traceparent[3:35]
    return "" if trace.strip(HEX) or trace == NO_TRACE else trace  # stripped of digits, nothing is left of an id
