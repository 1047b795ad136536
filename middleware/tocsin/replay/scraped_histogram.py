"""A classic histogram of Prometheus, as it is scraped: the counts of its buckets, and what came since the last look."""

from __future__ import annotations

import http.client
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from math import inf
from pathlib import Path
from typing import NamedTuple

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from tocsin.errors import ConfigError, RecordingError

MAX_PAGE = 64 << 20  # bytes
SECONDS = 10.0  # that one look may take
_SELECTOR = re.compile(r"([A-Za-z_:][A-Za-z0-9_:]*)(?:\{(.*)\})?")
_MATCHER = re.compile(r'\s*([A-Za-z_][A-Za-z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(?:,|$)')

Series = tuple[tuple[str, str], ...]  # labels but `le`, sorted
Cumulative = dict[float, int]  # upper bound -> values up to it


class Selector(NamedTuple):
    """The name of a histogram and the labels that its series must have."""

    name: str
    labels: Mapping[str, str]


class Bucket(NamedTuple):
    """How many new values are above `lower` and not above `upper`."""

    lower: float
    upper: float
    size: int


def selector_of(text: str) -> Selector:
    """Parse NAME or NAME{label="value", ...}. Raises ConfigError.

    >>> selector_of('guard_score{model="chat"}')
    Selector(name='guard_score', labels={'model': 'chat'})
    """
    match = _SELECTOR.fullmatch(text.strip())
    labels: dict[str, str] = {}
    rest = (match[2] or "").strip() if match else ""
    while match and rest:
        matcher = _MATCHER.match(rest)
        if matcher is None:
            match = None
            break
        labels[matcher[1]] = re.sub(r"\\(.)", lambda escaped: "\n" if escaped[1] == "n" else escaped[1], matcher[2])
        rest = rest[matcher.end() :].strip()
    if match is None:
        raise ConfigError(f"--histogram: expected NAME or NAME{{label=\"value\"}}, not '{text}'")
    return Selector(match[1].removesuffix("_bucket"), labels)


def page_of(source: str) -> str:
    """The text of a metrics page at a URL, or in a file. Raises RecordingError."""
    try:
        if not source.startswith(("http://", "https://")):
            return Path(source).read_text("utf-8")
        request = urllib.request.Request(source, headers={"Accept": "text/plain;version=0.0.4", "User-Agent": "tocsin"})
        with urllib.request.urlopen(request, timeout=SECONDS) as response:
            content: bytes = response.read(MAX_PAGE + 1)
    except urllib.error.HTTPError as error:
        raise RecordingError(f"{source}: HTTP {error.code}") from None
    except (OSError, http.client.HTTPException, UnicodeDecodeError, ssl.SSLError) as error:
        raise RecordingError(f"{source}: cannot be read ({error})") from None
    if len(content) > MAX_PAGE:
        raise RecordingError(f"{source}: has more than {MAX_PAGE:,} bytes")
    return content.decode("utf-8", "replace")


class ScrapedHistogram:
    """Counts what comes between two looks at the series of one histogram, each by itself: a series whose counts have
    fallen was reset, and counts from 0.
    """

    def __init__(self, selector: Selector) -> None:
        self._selector = selector
        self._before: dict[Series, Cumulative] = {}

    def look(self, page: str, where: str) -> list[Bucket]:
        """The buckets of what has come since the last look, or of everything at the first, of all series. Raises
        RecordingError where the page has no such histogram, or cannot be read.
        """
        try:
            series = _series(text_string_to_metric_families(page), self._selector)
        except (ValueError, KeyError, IndexError) as error:
            raise RecordingError(f"{where}: is no page in Prometheus' text format ({error})") from None
        if not series:
            raise RecordingError(f"{where}: has no classic histogram {self._selector.name} with these labels")
        buckets: list[Bucket] = []
        for labels, now in series.items():
            before = self._before.get(labels, {})
            if before.keys() != now.keys() or any(now[bound] < count for bound, count in before.items()):
                before = dict.fromkeys(now, 0)
            self._before[labels] = now
            buckets += _buckets({bound: now[bound] - before[bound] for bound in now})
        return buckets


def _series(families: Iterable[Metric], selector: Selector) -> dict[Series, Cumulative]:
    """The series with a selector's labels. Raises ValueError where a bound or a count is no number."""
    series: dict[Series, Cumulative] = {}
    for family in families:
        for sample in family.samples:
            labels = dict(sample.labels)
            bound = labels.pop("le", None)
            if sample.name != f"{selector.name}_bucket" or bound is None:
                continue
            if selector.labels.items() <= labels.items():
                series.setdefault(tuple(sorted(labels.items())), {})[float(bound)] = int(sample.value)
    return {labels: counts for labels, counts in series.items() if inf in counts}


def _buckets(cumulative: Cumulative) -> list[Bucket]:
    buckets, lower, below = [], -inf, 0
    for upper, up_to in sorted(cumulative.items()):
        if up_to > below:
            buckets.append(Bucket(lower, upper, up_to - below))
        lower, below = upper, max(below, up_to)
    return buckets
