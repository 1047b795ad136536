"""Turns the gate's options into batches of counts: given counts, scrapes, or Prometheus."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tocsin.errors import CheckError, ConfigError
from tocsin.rollouts.counters import LOOKBACK, Batches, CounterSample, increase
from tocsin.rollouts.looks import Looks
from tocsin.rollouts.names import at_least
from tocsin.rollouts.prometheus import Prometheus, Span, Watched, candidate_beside_live, two_versions
from tocsin.rollouts.scraped import alphas_of, read_counters, scraped_pairs
from tocsin_calibration.online.two_streams import AgainstRate, Pairs, StreamComparison, Streams

_COUNTS = re.compile(r"\s*(\d+)\s*/\s*(\d+)\s*")


@dataclass(frozen=True)
class Source:
    """Where counts come from: `canary` and `stable` are given counts, addresses of sidecars or label matchers. `rate`
    is a promised rate in place of the stable version; `shadow` compares a candidate bundle with the live one instead.
    """

    canary: Sequence[str]
    stable: Sequence[str] = ()
    rate: float | None = None
    shadow: bool = False
    baseline: float = 0.05
    severity: str = "warning"
    model: str | None = None
    prometheus: str | None = None
    since: float | None = None
    within: float = 86_400.0
    every: float = 60.0
    looks: Path | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    most_unscored: float = 0.05

    def __post_init__(self) -> None:
        if self.shadow and (self.stable or self.rate is not None):
            raise ConfigError("--shadow compares the candidate bundle with the live one: leave --stable and --rate out")
        if not self.shadow and bool(self.stable) == (self.rate is not None):
            raise ConfigError("what is the canary held to? Name --stable, or a promised --rate")
        if not self.canary and not (self.shadow and self.prometheus):
            raise ConfigError("name the --canary: ALARMS/RESPONSES, a sidecar's address, or labels in Prometheus")
        if self.looks is not None and self.prometheus is not None:
            raise ConfigError("--looks keeps counts that Prometheus keeps by itself: leave one of the two out")
        if self.prometheus is not None and self.model is None:
            raise ConfigError("--prometheus needs the name of the --model")
        if not self.every >= 1:
            raise ConfigError(f"--every: batches of a second or more, not {self.every:g} s")
        if not 0 <= self.most_unscored <= 1:
            raise ConfigError(f"--most-unscored is a share between 0 and 1, not {self.most_unscored:g}")


class Reading(NamedTuple):
    """Counts to judge, remarks on them for people, and reasons why nothing may be promoted on them."""

    comparison: StreamComparison
    remarks: list[str]
    withheld: list[str]


def read(source: Source, terms: Mapping[str, Any]) -> Reading:
    """Read the counts for one look. `terms` are those of the gate, which must be the same at all looks.

    Raises CheckError or ConfigError where no reliable counts can be read.
    """
    if source.prometheus is not None:
        return _from_prometheus(source, Prometheus(source.prometheus, source.headers))
    by_hand = [_COUNTS.fullmatch(text) is not None for text in (*source.canary, *source.stable)]
    looks = Looks.read(source.looks, {**terms, "severity": source.severity, "shadow": source.shadow})
    remarks = [] if source.looks else ["one look: to look again later, keep the counts between looks with --looks FILE"]
    if all(by_hand) and by_hand and not source.shadow:
        _add_counts(source, looks)
    elif any(by_hand):
        raise ConfigError("--canary and --stable are both ALARMS/RESPONSES, or both sidecars' addresses")
    else:
        _add_scrapes(source, looks, remarks)
    looks.write(source.looks)
    rows = np.array(looks.batches, np.float64).reshape(len(looks.batches), 5)
    if source.shadow:
        return Reading(Pairs.of(rows[:, :4]), remarks, _unscored(source, rows[:, 0], rows[:, 4]))
    return Reading(_compared(source, rows[:, :2], rows[:, 2:4]), remarks, _unscored(source, rows[:, 1], rows[:, 4]))


def _compared(source: Source, canary: Any, stable: Any) -> StreamComparison:
    if source.rate is not None:
        return AgainstRate.of(canary, source.rate)
    return Streams.of(canary, stable, source.baseline)


def _unscored(source: Source, responses: Any, unscored: Any) -> list[str]:
    judged, missed = float(np.sum(responses)), float(np.sum(unscored))
    if missed <= source.most_unscored * (judged + missed):
        return []
    return [
        f"{missed / (judged + missed):.1%} of the canary's responses were not scored, and what they would have been "
        f"nobody knows (--most-unscored {source.most_unscored:g})"
    ]


def _add_counts(source: Source, looks: Looks) -> None:
    """Given counts are totals since the rollout began; the batch is their increase."""
    if len(source.canary) > 1 or len(source.stable) > 1:
        raise ConfigError("counts by hand are the totals of all replicas: give --canary and --stable once")
    totals = [0.0] * 5
    for at, text in enumerate((*source.canary, *source.stable)):
        match = _COUNTS.fullmatch(text)
        assert match is not None
        alarms, responses = int(match[1]), int(match[2])
        if alarms > responses:
            raise ConfigError(f"'{text}': there cannot be more alarms than responses")
        totals[2 * at : 2 * at + 2] = [float(alarms), float(responses)]
    before = looks.last.get("by hand", [0.0] * 5)
    batch = [now - then for now, then in zip(totals, before, strict=True)]
    if min(batch) < 0 or batch[0] > batch[1] or batch[2] > batch[3]:
        raise CheckError("counts are totals since the rollout began, and no later look has fewer than an earlier one")
    looks.last["by hand"] = totals
    if any(batch):
        looks.batches.append(batch)


def _add_scrapes(source: Source, looks: Looks, remarks: list[str]) -> None:
    """Scrape each replica once, and add what was counted since the last look to `looks`."""
    severe = frozenset[str]()
    if source.shadow:
        alphas = alphas_of(source.canary[0], source.headers, source.model)
        if source.severity not in alphas:
            raise CheckError(f"{source.canary[0]}: promises nothing of severity '{source.severity}'")
        severe = at_least(source.severity, alphas)
    batch, begins = [0.0] * 5, False
    for place, addresses in (("canary", source.canary), ("stable", source.stable)):
        for address in addresses:
            if source.shadow:
                row = scraped_pairs(address, source.model, severe, source.headers)
            else:
                row = read_counters(address, source.model, source.severity, source.headers)
            counts, first = _since_last(f"{place} {address}", row, looks, source.looks is not None, remarks)
            begins |= first
            for at, column in enumerate(_columns(source.shadow, place)):
                batch[column] += counts[at]
    if begins and source.looks is not None and not looks.batches:
        remarks.append("the first look: counting begins here")
    elif any(batch):
        looks.batches.append(batch)


def _columns(shadow: bool, place: str) -> tuple[int, ...]:
    """The position of a target's counters in a batch. Of unscored responses only the canary's count."""
    if shadow:
        return (0, 1, 2, 3, 4)
    return (0, 1, 4) if place == "canary" else (2, 3)


def _since_last(
    name: str, row: CounterSample, looks: Looks, continues: bool, remarks: list[str]
) -> tuple[Sequence[float], bool]:
    """What a sidecar counted since the last look, and whether this is its first."""
    before = looks.last.get(name)
    looks.last[name] = [*row.counts, row.began or 0.0]
    if before is None:
        return ([0.0] * len(row.counts) if continues else row.counts), True
    counts, anew = increase(CounterSample(0.0, tuple(before[:-1]), before[-1] or None), row)
    if anew:
        remarks.append(f"{name}: restarted since the last look; what it had counted in between is lost")
    return counts, False


def _from_prometheus(source: Source, prometheus: Prometheus) -> Reading:
    """The counts of a rollout from its beginning, or within a time, as a Prometheus has them."""
    watched = Watched(source.model or "", source.severity)
    span = Span(time.time(), source.every, source.within, source.since)
    canary_labels = _single(source.canary, "--canary")
    if source.shadow:
        batches = candidate_beside_live(prometheus, watched, canary_labels, span)
        withheld = _silence_remarks(batches, span) + _unscored(source, batches.counts[:, 0], batches.counts[:, 4])
        return Reading(Pairs.of(batches.counts[:, :4]), _remarks("the shadow", batches), withheld)
    stable_labels = None if source.rate is not None else _single(source.stable, "--stable")
    canary, stable = two_versions(prometheus, watched, canary_labels, stable_labels, span)
    remarks = _remarks("the canary", canary)
    if stable_labels is not None:
        remarks += _remarks("the stable version", stable)
        alone = canary.counts[:, 1][stable.counts[:, 1] == 0].sum()
        if alone:
            remarks.append(
                f"{alone:,.0f} canary responses came in batches without any of the stable version, and do not count"
            )
    withheld = _silence_remarks(canary, span) + _unscored(source, canary.counts[:, 1], canary.counts[:, 2])
    return Reading(_compared(source, canary.counts[:, :2], stable.counts[:, :2]), remarks, withheld)


def _single(matchers: Sequence[str], option: str) -> str:
    if len(matchers) > 1:
        raise ConfigError(f"{option}: one list of label matchers, such as 'pod=~\"mine-.*\"'")
    return matchers[0] if matchers else ""


def _silence_remarks(batches: Batches, span: Span) -> list[str]:
    if batches.last is None or span.now - batches.last > max(LOOKBACK, 2 * span.every):
        ago = "" if batches.last is None else f" for {span.now - batches.last:.0f} s"
        return [f"Prometheus has not heard of the canary{ago}"]
    return []


def _remarks(who: str, batches: Batches) -> list[str]:
    remarks = [f"{who}: {batches.targets} targets in {len(batches.counts):,} batches"]
    if batches.resets:
        remarks.append(f"{who}: counters restarted {batches.resets} times (processes that were started again)")
    if batches.gaps:
        remarks.append(f"{who}: {batches.gaps} gaps of more than {LOOKBACK:.0f} s between samples are left out")
    return remarks
