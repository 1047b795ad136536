"""Claim: spans that are written by hand are those that the SDK writes, field by field."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, TraceFlags

from tocsin.configuration.telemetry import TelemetryConfig
from tocsin.sinks.judged_span import JudgedSpan
from tocsin.telemetry.exporters import span_exporter
from tocsin.telemetry.span_encoding import JudgedSpanEncoder
from tocsin.verdict import Verdict

RESOURCE, SCOPE = Resource.create({"service.name": "tocsin"}), InstrumentationScope("tocsin")
TEXTS = st.text(max_size=300)
P = st.floats(0, 1, exclude_min=True)


@st.composite
def verdicts(draw: st.DrawFn) -> Verdict:
    model, version = draw(TEXTS), draw(TEXTS)
    if draw(st.booleans()):
        return Verdict(model, version, unscored=draw(st.sampled_from(["no_bundle", "late"])))
    rows, detectors = draw(st.lists(P, min_size=1, max_size=400)), draw(st.lists(TEXTS, max_size=5, unique=True))
    severity = draw(st.sampled_from([None, "warning", "critical"]))
    details = [draw(P) for _ in detectors]
    return Verdict(model, version, "sha256:1", rows, [severity] * len(rows), tuple(detectors), details, severity)


@st.composite
def spans(draw: st.DrawFn) -> JudgedSpan:
    ids = draw(st.integers(1, (1 << 128) - 1)), draw(st.integers(1, (1 << 64) - 1)), draw(st.integers(0, (1 << 64) - 1))
    times = draw(st.integers(0, (1 << 63) - 1)), draw(st.integers(0, (1 << 63) - 1))
    method = draw(st.sampled_from(["/a.B/C", "POST /v1/score", "/" + "x" * 200]))
    of_method = draw(st.sampled_from([{}, {"gen_ai.operation.name": "chat"}]))
    finding = draw(st.none() | st.lists(TEXTS, max_size=3))
    return JudgedSpan(RESOURCE, SCOPE, ids, times, method, of_method, draw(verdicts()), finding)


@given(st.lists(spans(), max_size=6))
def test_a_batch_is_what_the_sdk_writes(batch: list[JudgedSpan]) -> None:
    expected = encode_spans(batch)
    assert JudgedSpanEncoder(encode_spans)(batch) == expected
    serialized = JudgedSpanEncoder(encode_spans, serializes=True)(batch).SerializePartialToString()
    assert type(expected).FromString(serialized) == expected


def test_a_serialized_request_answers_as_the_message_does() -> None:
    batch = [JudgedSpan(RESOURCE, SCOPE, (1, 2, 0), (3, 4), "/a.B/C", {}, Verdict("m", unscored="late"), None)] * 3
    request = JudgedSpanEncoder(encode_spans, serializes=True)(batch)
    assert request.SerializeToString() == request.SerializePartialToString()
    assert len(request.resource_spans[0].scope_spans[0].spans) == 3 and request.ByteSize() > 100
    with pytest.raises(AttributeError):
        request.nothing_like_it


def test_versions_of_any_length_are_not_kept_in_memory() -> None:
    def batch(start: int) -> list[ReadableSpan]:
        versions = [f"{number} {'x' * 100_000}" for number in range(start, start + 20)]
        calls = [Verdict("m", version, "sha256:1", [0.5], [None], ("d",), [0.5]) for version in versions]
        return [JudgedSpan(RESOURCE, SCOPE, (1, 2, 0), (3, 4), "/a.B/C", {}, verdict, None) for verdict in calls]

    encoder = JudgedSpanEncoder(encode_spans)
    assert encoder(batch(0)) == encode_spans(batch(0))
    tracemalloc.start()
    try:
        encoder(batch(20))
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()


@given(spans())
def test_the_verdict_may_be_cut_short_before_the_span_is_exported(span: JudgedSpan) -> None:
    before = encode_spans([span])
    span.verdict.keep_told()
    assert encode_spans([span]) == before


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_the_exporters_of_the_sdk_use_it_once(protocol: str) -> None:
    from importlib import import_module

    module = import_module(f"opentelemetry.exporter.otlp.proto.{protocol}.trace_exporter")
    for _ in range(2):
        span_exporter(TelemetryConfig(traces=1.0, protocol=protocol)).shutdown()
    encoder: Any = module.encode_spans
    assert isinstance(encoder, JudgedSpanEncoder) and not isinstance(encoder._encode, JudgedSpanEncoder)


def test_spans_of_others_and_those_with_events_are_left_to_the_sdk() -> None:
    judged = JudgedSpan(RESOURCE, SCOPE, (1, 2, 0), (3, 4), "/a.B/C", {}, Verdict("m", unscored="late"), None)
    with_event = JudgedSpan(
        RESOURCE, SCOPE, (1, 2, 0), (3, 4), "/a.B/C", {}, Verdict("m", unscored="late"), None, (Event("e", {}, 5),)
    )
    context = SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(1))
    other = ReadableSpan("other", context, resource=RESOURCE, start_time=1, end_time=2, instrumentation_scope=SCOPE)
    for batch in ([judged, other], [other, judged], [judged, with_event], []):
        assert JudgedSpanEncoder(encode_spans)(batch) == encode_spans(batch)
