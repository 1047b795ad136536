"""A judged call as a span of OpenTelemetry, of which nothing is put into words before it is exported.

A storm of alarms makes a span of each response, on the serving path. What the SDK reads of a span is worked out when it
is read, in the thread that exports.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags

from tocsin.verdict import Verdict

SAMPLED = TraceFlags(TraceFlags.SAMPLED)


class Labels(NamedTuple):
    """What spans of calls alike say in the same words. `of_method` are attributes of all calls of the method."""

    method: str
    of_method: tuple[tuple[str, str], ...]
    model: str
    action: str
    version: str
    bundle: str
    unscored: str | None

    @property
    def attributes(self) -> dict[str, str]:
        """Attributes by the semantic conventions; what is Tocsin's own begins with `tocsin.`."""
        attributes = {
            **_of_call(self.method),
            **dict(self.of_method),
            "tocsin.model": self.model,
            "tocsin.action": self.action,
        }
        if "gen_ai.operation.name" in attributes:
            attributes["gen_ai.request.model"] = self.model
        if self.version:
            attributes["tocsin.model.version"] = self.version
        if self.unscored is None:
            attributes["tocsin.bundle"] = self.bundle
        else:
            attributes["tocsin.unscored"] = self.unscored
        return attributes


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
        self._method, self._of_method, self.verdict, self.finding = method, of_method, verdict, finding
        self.has_events = bool(events)
        self.lowest, self.rows = min(verdict.pvalues, default=None), len(verdict.pvalues)  # which may be cut short

    @property
    def parent(self) -> SpanContext | None:
        if not self.parent_span:
            return None
        return SpanContext(self.trace, self.parent_span, is_remote=True, trace_flags=SAMPLED)

    @property
    def labels(self) -> Labels:
        """What other spans say too."""
        verdict, of_method = self.verdict, self._of_method
        return Labels(
            self._method,
            tuple(of_method.items()) if of_method else (),
            verdict.model,
            verdict.action,
            verdict.version,
            verdict.bundle,
            verdict.unscored,
        )

    @property
    def attributes(self) -> dict[str, Any]:
        """The labels' attributes, and what is this call's own."""
        verdict = self.verdict
        attributes: dict[str, Any] = self.labels.attributes
        if verdict.unscored is None:
            attributes["tocsin.p"] = self.lowest
            if self.rows > 1:
                attributes["tocsin.rows"] = self.rows
            for name, p in verdict.by_detector.items():
                attributes[name_of_p(name)] = p
        if verdict.severity is not None:
            attributes["tocsin.alarm"] = verdict.severity
            attributes["tocsin.reasons"] = verdict.reasons
            if self.finding is not None:
                attributes["tocsin.evidence"] = list(self.finding)
        return attributes


def name_of_p(detector: str) -> str:
    """The attribute that is a detector's p-value."""
    return f"tocsin.detector.{detector}.p"


def _of_call(method: str) -> dict[str, str]:
    """The attributes of a gRPC method, or of a route such as `POST /v1/score`."""
    verb, _, route = method.partition(" ")
    if route:
        return {"http.request.method": verb, "http.route": route}
    return {"rpc.system.name": "grpc", "rpc.method": method[1:]}
