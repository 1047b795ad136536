"""A replay as one HTML page, with pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from math import log

from tocsin.replay.replay import Replay
from tocsin_calibration import Promise
from tocsin_calibration.evaluation.page import facts_table, grid_table, page
from tocsin_calibration.evaluation.pictures import Line, histogram, lines

BARS = 20


def report(
    found: Replay, promise: Promise, title: str, about: Sequence[tuple[str, str]], named: Callable[[int], str]
) -> str:
    """The page; `named` says what is known of a row, for those that are told one by one."""
    parts = [f'<p class="say">{escape(line)}</p>' for line in said(found, promise)]
    for severity in reversed(promise.alphas):
        parts += [f"<h2>{escape(severity)}</h2>", f"<p>{escape(promise.sentence(severity))}</p>", '<div class="pair">']
        parts += [_rates(found, promise, severity), _evidence(found, severity), "</div>"]
    counts = [0] * BARS
    for p in found.pvalues:
        counts[min(int(p * BARS), BARS - 1)] += 1
    told = "P-values: flat where the promise holds, high at the left where too many responses stand out"
    picture = histogram(told, counts, len(found.pvalues) / BARS, "p-value")
    parts += ["<h2>All responses</h2>", f"<figure>{picture}<figcaption>{told}.</figcaption></figure>"]
    if found.loudest:
        rows = [
            (named(one.row), one.severity, f"{one.p:.4g}", ", ".join(f"{n} {p:.3g}" for n, p in one.detectors.items()))
            for one in found.loudest
        ]
        parts += ["<h2>The loudest alarms</h2>", grid_table(("response", "severity", "p", "by detector"), rows)]
    return page(title, [*parts, "<h2>What this was</h2>", facts_table(about)])


def said(found: Replay, promise: Promise) -> list[str]:
    """What happened, a sentence a severity, mildest first."""
    told = []
    for severity in reversed(promise.alphas):
        count, paged = found.alarms[severity], found.paged[severity]
        expected = "which has no expected range, as the promise is for each step"
        if not promise.is_per_step:
            low, high = promise.limits.count_range(severity, found.trials)
            expected = f"where {low:,} to {high:,} are expected 99 times of 100"
        would = "nobody would have been paged" if paged is None else f"somebody would have been paged after {paged:,}"
        told.append(
            f"{severity}: {count:,} of {found.trials:,} {promise.unit} would have alarmed "
            f"({count / max(1, found.trials):.2%}), {expected}; {would}."
        )
    if found.drifted is not None:
        told.append(f"Drift would have been told after {found.drifted:,}.")
    return told


def _rates(found: Replay, promise: Promise, severity: str) -> str:
    stretches = found.stretches[severity]
    if not stretches:
        return ""
    x = [one.end for one in stretches]
    drawn = [
        Line(x, [one.ceiling for one in stretches], "other"),
        Line([0, x[-1]], [promise.alphas[severity]] * 2, "ideal"),
        Line(x, [one.rate for one in stretches]),
    ]
    told = "Share that alarms (blue), promised (dashed), and how far chance takes a stretch (ochre)"
    return f"<figure>{lines(told, drawn, promise.unit, 'share')}<figcaption>{told}.</figcaption></figure>"


def _evidence(found: Replay, severity: str) -> str:
    values = found.evidence.get(severity)
    if not values:
        return ""
    drawn = [
        Line(found.seen_at, [max(0.0, value) for value in found.drift], "other"),
        Line([0, found.seen_at[-1]], [log(len(found.evidence) / 0.01)] * 2, "ideal"),
        Line(found.seen_at, [max(0.0, value) for value in values]),
    ]
    told = "Evidence (log) against the promise (blue) and of drift (ochre); grey: by chance once in a hundred, ever"
    return f"<figure>{lines(told, drawn, 'seen so far', 'log evidence')}<figcaption>{told}.</figcaption></figure>"
