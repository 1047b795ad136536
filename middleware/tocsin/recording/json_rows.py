"""Rows of JSON lines: one object on each line, or spans in OpenTelemetry's file format (OTLP JSON)."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from tocsin.unscored import Unscored

Row = Mapping[str, Any]

LONGEST_LINE = 16 << 20  # characters
_VALUES = ("stringValue", "doubleValue", "intValue", "boolValue")  # of an attribute in OTLP JSON


def rows_of(line: str, scores: Collection[str]) -> Iterator[Row]:
    """The rows of one line: the object itself, or the attributes of each span, with its `name`, `time` and `traceId`.
    Spans without any of these `scores` are skipped, because traces hold spans of other work too.

    Raises Unscored `undecodable` where the line is not a JSON object, `too_large` beyond 16 Mi characters.
    """
    if len(line) > LONGEST_LINE:
        raise Unscored("too_large", f"the line has {len(line):,} characters")
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Unscored("undecodable", f"the line is no JSON ({type(error).__name__})") from None
    if not isinstance(content, dict):
        raise Unscored("undecodable", "the line is no JSON object")
    if "resourceSpans" not in content:
        yield content
        return
    try:
        for span in _spans(content):
            if any(value_at(span, path) is not None for path in scores):
                yield span
    except (AttributeError, KeyError, TypeError) as error:
        raise Unscored("undecodable", f"the line is no OTLP JSON ({type(error).__name__})") from None


def value_at(row: Row, path: str) -> Any:
    """The value of a row under that name, or along the names between dots; None where there is none."""
    if path in row:
        return row[path]
    value: Any = row
    for name in path.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def _spans(content: dict[str, Any]) -> Iterator[Row]:
    for resource in content["resourceSpans"]:
        shared = _attributes(resource.get("resource", {}))
        for scope in resource.get("scopeSpans", ()):
            for span in scope.get("spans", ()):
                times = {"name": span.get("name"), "time": span.get("endTimeUnixNano"), "traceId": span.get("traceId")}
                yield {**shared, **times, **_attributes(span)}


def _attributes(of: dict[str, Any]) -> dict[str, Any]:
    """Attributes by key. JSON holds 64-bit integers as text, which is parsed as a number later."""
    result = {}
    for attribute in of.get("attributes", ()):
        value = attribute.get("value", {})
        result[attribute["key"]] = next((value[kind] for kind in _VALUES if kind in value), None)
    return result
