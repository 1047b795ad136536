"""A judged call as a span of OpenTelemetry, of which nothing is put into words before it is exported.

A storm of alarms makes a span of each response, on the serving path. What the SDK reads of a span is worked out when it
is read, in the thread that exports.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags

from tocsin.verdict import Verdict

SAMPLED = TraceFlags(TraceFlags.SAMPLED)


class JudgedSpan(ReadableSpan):
    """A span that has ended. `trace`, `span` and `parent_span` are ids, the last 0 where there is no caller's span;
    `of_method` are attributes of all calls of the method, `finding` is what evidence says of the model.
    """

    def __init__(
        self,
        resource: Resource,
        scope: InstrumentationScope,
        ids: tuple[int, int, int],
        times: tuple[int, int],
        method: str,
        of_method: Mapping[str, str],
        verdict: Verdict,
        finding: Sequence[str] | None,
        events: Sequence[Event] = (),
    ) -> None:
        self.trace, self.span, self.parent_span = ids
        began, ended = times
        super().__init__(
            method.removeprefix("/"),
            resource=resource,
            kind=SpanKind.SERVER,
            start_time=began,
            end_time=ended,
            events=events,
            instrumentation_scope=scope,
        )
        self._context = SpanContext(self.trace, self.span, is_remote=False, trace_flags=SAMPLED)
        self._method, self._of_method, self._verdict, self._finding = method, of_method, verdict, finding
        self._lowest, self._rows = min(verdict.pvalues, default=None), len(verdict.pvalues)  # which may be cut short

    @property
    def parent(self) -> SpanContext | None:
        if not self.parent_span:
            return None
        return SpanContext(self.trace, self.parent_span, is_remote=True, trace_flags=SAMPLED)

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes by the semantic conventions; what is Tocsin's own begins with `tocsin.`."""
        verdict = self._verdict
        attributes: dict[str, Any] = {
            **_of_call(self._method),
            **self._of_method,
            "tocsin.model": verdict.model,
            "tocsin.action": verdict.action,
        }
        if "gen_ai.operation.name" in attributes:
            attributes["gen_ai.request.model"] = verdict.model
        if verdict.version:
            attributes["tocsin.model.version"] = verdict.version
        if verdict.unscored is not None:
            attributes["tocsin.unscored"] = verdict.unscored
        else:
            attributes |= {"tocsin.bundle": verdict.bundle, "tocsin.p": self._lowest}
            if self._rows > 1:
                attributes["tocsin.rows"] = self._rows
            for name, p in verdict.by_detector.items():
                attributes[f"tocsin.detector.{name}.p"] = p
        if verdict.severity is not None:
            attributes["tocsin.alarm"] = verdict.severity
            attributes["tocsin.reasons"] = verdict.reasons
            if self._finding is not None:
                attributes["tocsin.evidence"] = list(self._finding)
        return attributes


def _of_call(method: str) -> dict[str, str]:
    """The attributes of a gRPC method, or of a route such as `POST /v1/score`."""
    verb, _, route = method.partition(" ")
    if route:
        return {"http.request.method": verb, "http.route": route}
    return {"rpc.system.name": "grpc", "rpc.method": method[1:]}
