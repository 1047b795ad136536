"""Spans as OTLP's protobuf, written by hand: the SDK takes some 60 us a span, more than all of judging.

A span of a judged call has a dozen attributes, of which most say the same as those of the span before. The SDK makes
two messages of each; here, what spans of calls alike have in common is bytes that are remembered, and all spans of a
batch are parsed at once.
Spans of others, and those with events, are left to the SDK.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from operator import itemgetter
from struct import Struct
from typing import Any, Final

from opentelemetry.sdk.trace import ReadableSpan

from tocsin.protocols.layouts import encoded_varint
from tocsin.sinks.judged_span import JudgedSpan, Labels, name_of_p
from tocsin.verdict import reason

Encoder = Callable[[Sequence[ReadableSpan]], Any]  # gives an ExportTraceServiceRequest

_DOUBLE: Final = Struct("<d")
_FLAGS_OF_CHILD: Final = 0x300  # opentelemetry.proto.trace.v1.SpanFlags: is a parent remote
_FLAGS_OF_ROOT: Final = 0x100
_RESOURCE_SPANS: Final = b"\x0a"  # of ExportTraceServiceRequest
_SCOPE_SPANS: Final = b"\x12"  # of ResourceSpans
_SPANS: Final = b"\x12"  # of ScopeSpans
_KIND_AND_TIMES: Final = Struct("<BBBQBQ")
_FLAGS: Final = Struct("<BBL")
_BY_P: Final = itemgetter(1)
# Characters of a version, which a model server or a caller may choose, or of another text, that are not remembered.
_LONG: Final = 256
_LENGTHS: Final = [encoded_varint(length) for length in range(2_048)]  # of most of what is written


class SerializedRequest:
    """An ExportTraceServiceRequest as its bytes, for an exporter that does nothing but send them. What else is asked of
    it, a message of the kind of `message` answers, which has read them.
    """

    def __init__(self, content: bytes, message: Any) -> None:
        self._content = content
        self._message = message

    def SerializeToString(self) -> bytes:
        return self._content

    def SerializePartialToString(self) -> bytes:
        return self._content

    def __getattr__(self, name: str) -> Any:
        return getattr(type(self._message).FromString(self._content), name)


class JudgedSpanEncoder:
    """Encodes batches of spans: those of judged calls by hand, others by `encode`, which is the SDK's.

    With `serializes`, what was written by hand is not read into a message again, which takes a third of all.
    """

    def __init__(self, encode: Encoder, *, serializes: bool = False) -> None:
        self._encode = encode
        self._serializes = serializes

    def __call__(self, spans: Sequence[ReadableSpan]) -> Any:
        if not spans or not all(isinstance(span, JudgedSpan) and not span.has_events for span in spans):
            return self._encode(spans)
        request = self._encode(spans[:1])  # with the resource and the scope of all of them
        (of_resource,) = request.resource_spans
        (of_scope,) = of_resource.scope_spans
        parts: list[bytes] = []
        for span in spans[1:]:
            content = _span(span)
            parts += (_SPANS, _length(len(content)), content)
        if not self._serializes:
            of_scope.MergeFromString(b"".join(parts))
            return request
        inner = b"".join((of_scope.SerializeToString(), *parts))
        del of_resource.scope_spans[:]
        outer = of_resource.SerializeToString() + _with_length(_SCOPE_SPANS, inner)
        return SerializedRequest(_with_length(_RESOURCE_SPANS, outer), request)


def _span(span: Any) -> bytes:
    parent, labels = span.parent_span, span.labels
    return b"".join((
        b"\x0a\x10", span.trace.to_bytes(16, "big"), b"\x12\x08", span.span.to_bytes(8, "big"),
        b"\x22\x08" + parent.to_bytes(8, "big") if parent else b"",
        _name(span.name),
        _KIND_AND_TIMES.pack(0x30, 2, 0x39, span.start_time, 0x41, span.end_time),
        _kept_labels(labels) if len(labels.version) < _LONG else _labels(labels),
        *_own_attributes(span),
        _END_OF_CHILD if parent else _END_OF_ROOT,
    ))  # fmt: skip


def _own_attributes(span: Any) -> list[bytes]:
    """What a span says besides its labels. Of a response of one row, as most are, it is put together at once."""
    verdict = span.verdict
    if verdict.unscored is not None or verdict.weighed is not None or span.rows != 1:
        labels = span.labels.attributes
        return [_attribute(key, value) for key, value in span.attributes.items() if key not in labels]
    detectors, details = verdict.worst
    pack, parts = _numbers(detectors)
    parts = parts.copy()
    parts[1::2] = (span.lowest, *details)
    written = [pack(*parts)]
    if verdict.severity is not None:
        written.append(_text_attribute("tocsin.alarm", verdict.severity))
        ranked = sorted(zip(detectors, details, strict=True), key=_BY_P)
        texts = b"".join([_reason(name, p) for name, p in ranked])
        inner = b"\x2a" + _length(len(texts)) + texts
        value = b"".join((_REASONS, b"\x12", _length(len(inner)), inner))
        written += (b"\x4a", _length(len(value)), value)
        if span.finding is not None:
            written.append(_attribute("tocsin.evidence", span.finding))
    return written


@lru_cache(maxsize=1024)
def _name(name: str) -> bytes:
    return _text_field(b"\x2a", name)


def _labels(labels: Labels) -> bytes:
    return b"".join([_text_attribute(key, text) for key, text in labels.attributes.items()])


_kept_labels = lru_cache(maxsize=1024)(_labels)


@lru_cache(maxsize=1024)
def _numbers(detectors: tuple[str, ...]) -> tuple[Callable[..., bytes], list[Any]]:
    """How to pack the attributes that are p-values, and what to give it: bytes before each number, and its place."""
    before = [_before_double(key) for key in ("tocsin.p", *map(name_of_p, detectors))]
    parts = [part for prefix in before for part in (prefix, 0.0)]
    return Struct("<" + "".join([f"{len(prefix)}sd" for prefix in before])).pack, parts


@lru_cache(maxsize=4096)
def _reason(detector: str, p: float) -> bytes:
    """A value of an ArrayValue. Reasons name ranks among calibration scores, of which there are few."""
    return _item(reason(detector, p))


def _length(length: int) -> bytes:
    return _LENGTHS[length] if length < len(_LENGTHS) else encoded_varint(length)


def _attribute(key: str, value: Any) -> bytes:
    """A KeyValue of a Span."""
    if isinstance(value, str):
        return _text_attribute(key, value)
    if isinstance(value, float):
        return _before_double(key) + _DOUBLE.pack(value)
    if isinstance(value, int):
        content = b"\x18" + encoded_varint(value)
    else:
        content = _with_length(b"\x2a", b"".join([_item(text) for text in value]))
    return _with_length(b"\x4a", _text_field(b"\x0a", key) + _with_length(b"\x12", content))


def _text_attribute(key: str, value: str) -> bytes:
    return _kept_text(key, value) if len(value) < _LONG else _written_text(key, value)


def _written_text(key: str, value: str) -> bytes:
    text = _with_length(b"\x12", _text_field(b"\x0a", value))
    return _with_length(b"\x4a", _text_field(b"\x0a", key) + text)


_kept_text = lru_cache(maxsize=4096)(_written_text)


@lru_cache(maxsize=1024)
def _before_double(key: str) -> bytes:
    """What comes before the eight bytes of a number."""
    name = _text_field(b"\x0a", key)
    return b"\x4a" + encoded_varint(len(name) + 11) + name + b"\x12\x09\x21"


def _item(text: str) -> bytes:
    """A value of an ArrayValue."""
    return _with_length(b"\x0a", _text_field(b"\x0a", text))


def _text_field(tag: bytes, text: str) -> bytes:
    return _with_length(tag, text.encode())


def _with_length(tag: bytes, content: bytes) -> bytes:
    return tag + encoded_varint(len(content)) + content


_REASONS: Final = _text_field(b"\x0a", "tocsin.reasons")
_NO_STATUS: Final = b"\x7a\x00"
_END_OF_CHILD: Final = _NO_STATUS + _FLAGS.pack(0x85, 0x01, _FLAGS_OF_CHILD)
_END_OF_ROOT: Final = _NO_STATUS + _FLAGS.pack(0x85, 0x01, _FLAGS_OF_ROOT)
