"""Spans of judged calls: of all that alarm, and of a share of the others. Which, is decided when the verdict is there.

Attributes go by the semantic conventions for RPC, and for generative AI where the protocol says so; what is Tocsin's
own begins with `tocsin.`. A span is a child of the caller's, beside that of the model server: the request passes as it
came, so the model server sees the caller as its parent.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

from tocsin.judgement.call import Call, StreamedCall
from tocsin.judgement.sink import Scored

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

SPACE = 1 << 64


class SpanSink:
    """Makes spans of calls. `share` of those without an alarm are kept, by trace id, as the SDK's own sampler does;
    `follow`: also those whose caller's trace is sampled. Of a stream, one span is made, another if it gets graver.
    """

    def __init__(self, provider: TracerProvider, share: float, *, follow: bool = False) -> None:
        from opentelemetry import trace

        self._trace = trace
        self._tracer = provider.get_tracer("tocsin")
        self._share, self._follow = share, follow
        self._below = f"{min(int(share * SPACE), SPACE - 1):016x}"

    def scored(self, batch: Scored) -> None:
        """Make spans of a batch's calls."""
        at = 0
        for call in batch.calls:
            verdict = call.verdict
            assert verdict is not None
            first, at = at, at + len(verdict.pvalues)
            if verdict.severity is None and not self._kept(call):
                continue
            if call.whole is not None and not _news(call):
                continue
            self._make(call, batch.seconds, batch.scores[first:at].max(axis=0).tolist())

    def unscored(self, call: Call) -> None:
        """Of calls that passed without judgement, a share too."""
        if self._kept(call) and (call.whole is None or _news(call)):
            self._make(call, 0.0, [])

    def acted(self, call: Call, action: str) -> None:
        """It is told with the verdict what is to be done."""

    def shadowed(self, call: Call, severity: str | None) -> None:
        """Candidates make no spans."""

    def _kept(self, call: Call) -> bool:
        if not call.trace:
            return self._drawn(call.whole)
        return call.trace[16:] < self._below or (self._follow and call.parent[-1:] in "13579bdf")

    def _drawn(self, stream: StreamedCall | None) -> bool:
        """By chance, for all of a stream alike."""
        if stream is None:
            return random.random() < self._share
        if stream.drawn is None:
            stream.drawn = random.random() < self._share
        return stream.drawn

    def _make(self, call: Call, seconds: float, scores: list[float]) -> None:
        verdict = call.verdict
        assert verdict is not None
        told: dict[str, Any] = {
            "rpc.system.name": "grpc",
            "rpc.method": call.method[1:],
            **call.reads.attributes,
            "tocsin.model": verdict.model,
            "tocsin.action": verdict.action,
        }
        if "gen_ai.operation.name" in told:
            told["gen_ai.request.model"] = verdict.model
        if verdict.version:
            told["tocsin.model.version"] = verdict.version
        if verdict.unscored is not None:
            told["tocsin.unscored"] = verdict.unscored
        else:
            told |= {
                "tocsin.bundle": verdict.bundle,
                "tocsin.p": min(verdict.pvalues),
                "tocsin.rows": len(verdict.pvalues),
                "tocsin.scoring.seconds": seconds,
            }
            for (name, p), score in zip(verdict.by_detector.items(), scores, strict=True):
                told[f"tocsin.detector.{name}.p"] = p
                told[f"tocsin.detector.{name}.score"] = score
        now = time.time_ns()
        span = self._tracer.start_span(
            call.method[1:], self._context(call), self._trace.SpanKind.SERVER, told, start_time=call.began or now
        )
        if verdict.severity is not None:
            span.set_attribute("tocsin.alarm", verdict.severity)
            span.add_event("tocsin.alarm", {"severity": verdict.severity, "reasons": verdict.reasons}, now)
        span.end(now)

    def _context(self, call: Call) -> Any:
        """The caller's span as the parent, a trace of its own where there is none."""
        from opentelemetry.context import Context

        try:
            trace, span = int(call.trace, 16), int(call.parent[36:52], 16)
        except ValueError:
            return Context()
        flags = self._trace.TraceFlags(self._trace.TraceFlags.SAMPLED)
        parent = self._trace.NonRecordingSpan(self._trace.SpanContext(trace, span, is_remote=True, trace_flags=flags))
        return self._trace.set_span_in_context(parent, Context())


def _news(piece: Call) -> bool:
    """Whether a piece of a stream is graver than what a span was made of."""
    whole, verdict = piece.whole, piece.verdict
    assert whole is not None and verdict is not None
    if verdict.rank <= whole.spanned:
        return False
    whole.spanned = verdict.rank
    return True
