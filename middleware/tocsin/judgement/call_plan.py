"""What is computed once for many calls: for a method, and for metadata that callers send repeatedly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tocsin.protocols.method import Method


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
    """A method's plan with what is read from a request's metadata: the `keys` that judgement reads, the `trace`, and
    the model's name in `hint`, where metadata hold it. Calls with equal metadata share one.
    """

    __slots__ = ("hint", "keys", "of_method", "streams", "trace", "traceparent", "wants_metadata")

    def __init__(
        self, of_method: MethodPlan, keys: Mapping[str, str], traceparent: str, trace: str, hint: str | None
    ) -> None:
        self.of_method = of_method
        self.keys = keys
        self.traceparent = traceparent
        self.trace = trace
        self.hint = hint
        self.streams = of_method.reads.streams
        self.wants_metadata = bool(of_method.initial or of_method.trailing)
