"""The counts of a canary and of a stable version, read from Prometheus."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tocsin.errors import CheckError
from tocsin.rollouts.counters import Batches, CounterSample, floor_to, in_batches
from tocsin.rollouts.names import (
    ALARMS,
    BEGAN,
    RAISED,
    RESPONSES,
    SHADOW,
    TOTAL,
    UNSCORED,
    at_least,
    pair_columns,
)

QUERY_TIMEOUT = 30.0  # seconds for an answer
SCRAPE_DELAY = 10.0  # seconds after its end from which on a batch is taken as complete: samples arrive with a delay
REPLICAS = ("prometheus", "prometheus_replica", "replica", "__replica__", "receive_replica")  # of Prometheus itself
_MATCHERS = re.compile(r'(?:[a-zA-Z_]\w*\s*(?:=|!=|=~|!~)\s*"(?:[^"\\]|\\.)*"\s*(?:,\s*)?)+')

Key = tuple[tuple[str, str], ...]


class Series(NamedTuple):
    """A series of a range: its labels, and (Unix seconds, value) pairs."""

    labels: dict[str, str]
    samples: list[tuple[float, float]]


@dataclass(frozen=True)
class Prometheus:
    """The query API of a server. `headers` are sent with every request, for a proxy in front of it."""

    address: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def series(self, selector: str, seconds: float, end: float) -> list[Series]:
        """The samples of the `seconds` up to `end`. Raises CheckError when the server cannot be reached, or its answer
        is incomplete.
        """
        return [
            Series(dict(entry["metric"]), [(float(at), float(value)) for at, value in entry.get("values", [])])
            for entry in self.query(f"{selector}[{round(seconds)}s]", end)
        ]

    def query(self, promql: str, at: float) -> Any:
        """The result of an instant query."""
        form = urllib.parse.urlencode({"query": promql, "time": f"{at:.3f}"})
        request = urllib.request.Request(
            f"{self.address.rstrip('/')}/api/v1/query",
            form.encode(),
            {"Content-Type": "application/x-www-form-urlencoded", **self.headers},
        )
        try:
            with urllib.request.urlopen(request, timeout=QUERY_TIMEOUT) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            raise CheckError(f"{self.address}: refused the query ({_reason(error)})") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise CheckError(f"{self.address}: no Prometheus answers there ({reason}); --prometheus names it") from None
        try:
            if answer["status"] != "success":
                raise CheckError(f"{self.address}: refused the query ({answer.get('error', 'for no reason')})")
            if answer.get("warnings"):
                raise CheckError(
                    f"{self.address}: answers in part only ({'; '.join(map(str, answer['warnings']))}); counts that "
                    f"lack something decide nothing"
                )
            return answer["data"]["result"]
        except (LookupError, TypeError, AttributeError) as error:
            raise CheckError(f"{self.address}: answers what no Prometheus does ({error!r})") from None


@dataclass(frozen=True)
class Span:
    """Batches of `every` seconds that end after `start` (None: from the canary's first sample on) and before `now`. A
    canary is looked for within the last `within` seconds.
    """

    now: float
    every: float
    within: float
    start: float | None = None

    @property
    def end(self) -> float:
        """The end of the last complete batch."""
        return floor_to(self.now - SCRAPE_DELAY, self.every)


@dataclass(frozen=True)
class Watched:
    """What is counted: of which model, and alarms of which severity or a more severe one."""

    model: str
    severity: str


class TwoVersions(NamedTuple):
    """Batches of (alarms, responses, unscored responses) of the canary, and of the stable version."""

    canary: Batches
    stable: Batches


def two_versions(prometheus: Prometheus, watched: Watched, canary: str, stable: str | None, span: Span) -> TwoVersions:
    """Read the counts of both by their labels; without `stable`, those of the canary alone.

    Raises CheckError where there is nothing to read, a series belongs to both, or counts occur twice.
    """
    new = _targets(prometheus, watched, canary, span, "--canary")
    old = {} if stable is None else _targets(prometheus, watched, stable, span, "--stable")
    if common := new.keys() & old.keys():
        raise CheckError(f"--canary and --stable both match {_named(next(iter(common)))}: choose labels that differ")
    start = _start(new, span)
    return TwoVersions(in_batches(new, start, span.end, span.every, 3), in_batches(old, start, span.end, span.every, 3))


def candidate_beside_live(prometheus: Prometheus, watched: Watched, matchers: str, span: Span) -> Batches:
    """Batches of the counts of pairs (`pair_columns`) of a shadow."""
    check_matchers(matchers, "--canary")
    severe = _severities(prometheus, watched, span)
    selector = f"{SHADOW}{{model={_quoted(watched.model)}{_more(matchers)}}}"
    targets: dict[Key, dict[float, list[float]]] = {}
    for labels, samples in prometheus.series(selector, span.within, span.end):
        _add(targets, _key(labels, ("severity", "live")), samples, pair_columns(labels, severe))
    if not targets:
        raise CheckError(f"{selector}: no such series; the model needs a candidate bundle (shadow:) that judges, too")
    rows = {
        key: [CounterSample(at, tuple(counts)) for at, counts in sorted(moments.items())]
        for key, moments in targets.items()
    }
    _check_twice(rows)
    return in_batches(rows, _start(rows, span), span.end, span.every, 5)


def _targets(
    prometheus: Prometheus, watched: Watched, matchers: str, span: Span, option: str
) -> dict[Key, list[CounterSample]]:
    """Rows of (alarms, responses, unscored responses) by target, and by version where it is asked for by version."""
    check_matchers(matchers, option)
    by_version = re.search(r"(^|,)\s*version\s*(=|!=)", matchers) is not None
    total, alarms = (RESPONSES, RAISED) if by_version else (TOTAL, ALARMS)
    severe = _severities(prometheus, watched, span) if by_version else frozenset({watched.severity})
    model = _quoted(f"{re.escape(watched.model)}|")
    names = f"{total}|{alarms}" if by_version else f"{total}|{alarms}|{UNSCORED}|{BEGAN}"
    counted: dict[Key, dict[float, list[float]]] = {}
    began: dict[Key, dict[float, float]] = {}
    complete: dict[Key, dict[str, set[float]]] = {}  # by target the moments at which both of its counters are there
    selector = f'{{__name__=~"{names}",model=~{model}{_more(matchers)}}}'
    for labels, samples in prometheus.series(selector, span.within, span.end):
        name = labels.get("__name__", "")
        key = _key(labels, ("severity", "reason", "model", "method", "decision"))
        if name == BEGAN:
            began[key] = dict(samples)
            continue
        column = 2
        if name == alarms:
            column = 0
        elif name == total:
            column = 1
        if labels.get("severity", watched.severity) not in severe:
            continue
        if labels.get("reason") == "no_bundle" or labels.get("decision") == "unscored":
            continue
        _add(counted, key, samples, tuple(float(at == column) for at in range(3)))
        complete.setdefault(key, {}).setdefault(name, set()).update(at for at, _ in samples)
    if not counted:
        raise CheckError(
            f"{option} {matchers}: Prometheus has no counts of model '{watched.model}' with these labels in the last "
            f"{span.within:.0f} s"
        )
    rows = {}
    for key, moments in counted.items():
        there = complete[key]
        if alarms not in there:
            raise CheckError(
                f"{_named(key)}: has no alarms of severity '{watched.severity}'; --severity names one that the bundle "
                f"promises"
            )
        both = there[alarms] & there.get(total, set())
        rows[key] = [CounterSample(at, tuple(moments[at]), began.get(key, {}).get(at)) for at in sorted(both)]
    _check_twice(rows)
    return rows


def _add(
    targets: dict[Key, dict[float, list[float]]],
    key: Key,
    samples: list[tuple[float, float]],
    kinds: tuple[float, ...],
) -> None:
    moments = targets.setdefault(key, {})
    for at, value in samples:
        counts = moments.setdefault(at, [0.0] * len(kinds))
        for column, factor in enumerate(kinds):
            counts[column] += factor * value


def _severities(prometheus: Prometheus, watched: Watched, span: Span) -> frozenset[str]:
    """The severity that is watched and those that are more severe, by their promised rates."""
    result = prometheus.query(f"max by (severity) (tocsin_alpha{{model={_quoted(watched.model)}}})", span.end)
    alphas = {entry["metric"].get("severity", ""): float(entry["value"][1]) for entry in result}
    if watched.severity not in alphas:
        raise CheckError(
            f"Prometheus knows no promise of severity '{watched.severity}' for model '{watched.model}' "
            f"({', '.join(sorted(alphas)) or 'none at all'})"
        )
    return at_least(watched.severity, alphas)


def _start(targets: Mapping[Key, list[CounterSample]], span: Span) -> float:
    """Where counting begins. It is the same at every look, so that every look sees the same batches."""
    if span.start is not None:
        if span.start < span.end - span.within:
            raise CheckError(
                f"--since is longer ago than --within ({span.within:.0f} s): each look would begin to count elsewhere"
            )
        return span.start
    first = min(rows[0].at for rows in targets.values() if rows)
    if first < span.end - span.within + 2 * span.every:
        raise CheckError(
            "the canary has been there for longer than --within: say when the rollout began with --since, or look back "
            "further"
        )
    return floor_to(first, span.every)


def _key(labels: Mapping[str, str], without: tuple[str, ...]) -> Key:
    return tuple(sorted((name, value) for name, value in labels.items() if name not in ("__name__", *without)))


def _check_twice(rows: Mapping[Key, Any]) -> None:
    """Raises CheckError where a target occurs twice, because two Prometheus servers have scraped it."""
    seen_by: dict[Key, Key] = {}
    for key in rows:
        target = tuple(pair for pair in key if pair[0] not in REPLICAS)
        if target in seen_by:
            raise CheckError(
                f"{_named(key)} and {_named(seen_by[target])} are one target, scraped by two Prometheus: choose one of "
                f"them by its label"
            )
        seen_by[target] = key


def check_matchers(matchers: str, option: str) -> None:
    """Raises CheckError on text that cannot be between the braces of a selector."""
    if matchers and not _MATCHERS.fullmatch(matchers.strip()):
        raise CheckError(f"{option}: '{matchers}' are no label matchers, such as 'pod=~\"mine-.*\"'")


def _more(matchers: str) -> str:
    return f",{matchers.strip().rstrip(',')}" if matchers.strip() else ""


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _named(key: Key) -> str:
    return "{" + ", ".join(f'{name}="{value}"' for name, value in key) + "}"


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.loads(error.read(10_000))["error"])
    except (ValueError, LookupError, TypeError, OSError):
        return str(error)
