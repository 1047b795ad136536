"""Spans of judged calls: of all that alarm, and of a share of the others. Which, is decided when the verdict is there.

Attributes (`judged_span`) go by the semantic conventions for RPC, and for generative AI where the protocol says so. A
span is a child of the caller's, beside that of the model server: the request passes as it came, so that the model
server sees the caller as its parent.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tocsin.judgement.call import Call, StreamedCall
from tocsin.judgement.sink import Scored, Sink
from tocsin.protocols.method import EVALUATION_NAME
from tocsin.sinks.finding import Finding

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import Event, SpanProcessor

SPACE = 1 << 64


class SpanSink(Sink):
    """Makes spans of calls, and hands them to a `processor` of the SDK as ended. `share` of those without an alarm are
    kept, by trace id, as the SDK's own sampler does; `follow`: also those whose caller's trace is sampled. Of a stream,
    one span is made, another if it gets graver. `finding` is what evidence has found of a model.
    """

    takes_runs = True

    def __init__(
        self,
        processor: SpanProcessor,
        resource: Resource,
        share: float,
        *,
        follow: bool = False,
        finding: Callable[[str], Finding | None] = lambda model: None,
    ) -> None:
        from opentelemetry.sdk.trace import Event
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        from tocsin.sinks.judged_span import JudgedSpan

        self._processor, self._resource = processor, resource
        self._share, self._follow, self._finding = share, follow, finding
        self._below = f"{min(int(share * SPACE), SPACE - 1):016x}"
        self._event = Event
        self._span = JudgedSpan
        self._ids, self._scope = RandomIdGenerator(), InstrumentationScope("tocsin")

    def scored(self, batch: Scored) -> None:
        """Make spans of a batch's calls."""
        next_row = 0
        for call in batch.calls:
            verdict = call.verdict
            assert verdict is not None
            row, next_row = next_row, next_row + len(verdict.pvalues)
            if verdict.severity is None and not self._is_kept(call):
                continue
            if call.parent is not None and not _is_graver(call):
                continue
            is_evaluation = EVALUATION_NAME in call.reads.attributes
            self._make(call, float(batch.scores[row, 0]) if is_evaluation else None)

    def unscored(self, call: Call) -> None:
        """Of calls that passed without judgement, a share too."""
        if self._is_kept(call) and (call.parent is None or _is_graver(call)):
            self._make(call)

    def _is_kept(self, call: Call) -> bool:
        if not call.trace:
            return self._drawn(call.parent)
        return call.trace[16:] < self._below or (self._follow and call.traceparent[-1:] in "13579bdf")

    def _drawn(self, stream: StreamedCall | None) -> bool:
        """By chance, for all of a stream alike."""
        if stream is None:
            return random.random() < self._share
        if stream.drawn is None:
            stream.drawn = random.random() < self._share
        return stream.drawn

    def _make(self, call: Call, evaluation: float | None = None) -> None:
        """Make a span of a call; of an opinion about one with its score, `evaluation`."""
        verdict = call.verdict
        assert verdict is not None
        now = time.time_ns()
        trace, parent = _parent(call)
        finding = self._finding(verdict.model) if verdict.severity is not None else None
        # Made as it is to be read: a span of the SDK's tracer, which may be written to, takes ten times as long.
        span = self._span(
            self._resource,
            self._scope,
            (trace or self._ids.generate_trace_id(), self._ids.generate_span_id(), parent),
            (call.began or now, now),
            call.method,
            call.reads.attributes,
            verdict,
            None if finding is None else finding.text,
            () if evaluation is None else (self._result(call, evaluation, now),),
        )
        self._processor.on_end(span)

    def _result(self, call: Call, score: float, now: int) -> Event:
        """The event that says what an opinion is, as the conventions for generative AI have it."""
        severity = call.verdict.severity if call.verdict is not None else None
        result: dict[str, Any] = {
            EVALUATION_NAME: call.reads.attributes[EVALUATION_NAME],
            "gen_ai.evaluation.score.value": score,
            "gen_ai.evaluation.score.label": severity or "none",
        }
        return self._event("gen_ai.evaluation.result", result, now)


def _parent(call: Call) -> tuple[int, int]:
    """The ids of the caller's trace and span, 0 where there are none."""
    if not call.trace:
        return 0, 0
    try:
        trace, span = int(call.trace, 16), int(call.traceparent[36:52], 16)
    except ValueError:
        return 0, 0
    return (trace, span) if trace and span else (0, 0)


def _is_graver(piece: Call) -> bool:
    """Whether a piece of a stream is graver than what a span was made of."""
    parent, verdict = piece.parent, piece.verdict
    assert parent is not None and verdict is not None
    if verdict.rank <= parent.spanned:
        return False
    parent.spanned = verdict.rank
    return True
