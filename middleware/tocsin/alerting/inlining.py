"""Alerts that need no recording rules: each recorded series is replaced by the expression that records it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from tocsin.alerting.rule import Group, RecordingRule

_RECORDED = re.compile(r"(tocsin:[\w:]+)(?:\{([^}]*)\})?")
_METRIC = re.compile(r"\b(tocsin_\w+)(?:\{([^}]*)\})?")


def recorded(groups: Sequence[Group]) -> dict[str, str]:
    """The expression of each recorded series of these groups, by its name."""
    rules = [rule for group in groups for rule in group.rules if isinstance(rule, RecordingRule)]
    return {rule.name: rule.expr for rule in rules}


def inlined(expr: str, series: Mapping[str, str]) -> str:
    """The expression with every series of `series` replaced, those in its replacements too.

    Matchers of a replaced series go to the metrics it is made of: they must be of labels that those have.
    """

    def replacement(match: re.Match[str]) -> str:
        inner = inlined(series[match[1]], series)
        return f"({inner if match[2] is None else _matched(inner, match[2])})"

    return _RECORDED.sub(replacement, expr)


def _matched(expr: str, matchers: str) -> str:
    def selector(match: re.Match[str]) -> str:
        return f"{match[1]}{{{', '.join(part for part in (match[2], matchers) if part)}}}"

    return _METRIC.sub(selector, expr)
