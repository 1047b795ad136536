"""A replay as one HTML page, with pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from math import log

from tocsin.replay.replay import Replay
from tocsin.sinks.finding import Finding
from tocsin_calibration import Promise
from tocsin_calibration.evaluation.page import facts_table, grid_table, page
from tocsin_calibration.evaluation.pictures import Line, histogram, lines

BARS = 20


def report(
    result: Replay, promise: Promise, title: str, about: Sequence[tuple[str, str]], named: Callable[[int], str]
) -> str:
    """The page. `named` returns what is known of a row, for rows that are listed."""
    parts = [f'<p class="say">{escape(line)}</p>' for line in summary_lines(result, promise, named)]
    for severity in reversed(promise.alphas):
        parts += [f"<h2>{escape(severity)}</h2>", f"<p>{escape(promise.sentence(severity))}</p>", '<div class="pair">']
        parts += [_rates(result, promise, severity), _evidence(result, severity), "</div>"]
    counts = [0] * BARS
    for p in result.pvalues:
        counts[min(int(p * BARS), BARS - 1)] += 1
    title_text = "P-values: flat where the promise holds, high at the left where too many responses stand out"
    picture = histogram(title_text, counts, len(result.pvalues) / BARS, "p-value")
    parts += ["<h2>All responses</h2>", f"<figure>{picture}<figcaption>{title_text}.</figcaption></figure>"]
    if result.loudest:
        rows = [
            (
                named(alarm.row),
                alarm.severity,
                f"{alarm.p:.4g}",
                ", ".join(f"{n} {p:.3g}" for n, p in alarm.detectors.items()),
            )
            for alarm in result.loudest
        ]
        parts += ["<h2>The most extreme alarms</h2>", grid_table(("response", "severity", "p", "by detector"), rows)]
    return page(title, [*parts, "<h2>What this was</h2>", facts_table(about)])


def summary_lines(result: Replay, promise: Promise, named: Callable[[int], str] = "{:,}".format) -> list[str]:
    """What happened, in one sentence for each severity, mildest first; then what changed and since when. `named`
    returns what is known of a row.
    """
    sentences = []
    for severity in reversed(promise.alphas):
        count, paged = result.alarms[severity], result.paged[severity]
        expected = "which has no expected range, as the promise is for each step"
        if not promise.is_per_step:
            low, high = promise.limits.count_range(severity, result.trials)
            expected = f"where {low:,} to {high:,} are expected 99 times of 100"
        would = "no alert would have fired" if paged is None else f"an alert would have fired after {paged:,}"
        sentences.append(
            f"{severity}: {count:,} of {result.trials:,} {promise.unit} would have alarmed "
            f"({count / max(1, result.trials):.2%}), {expected}; {would}."
        )
    if result.drifted is not None:
        sentences.append(f"Drift would have been reported after {result.drifted:,}.")
    if result.inputs_changed is not None:
        sentences.append(f"A change of inputs would have been reported after {result.inputs_changed:,}.")
    if result.finding is not None:
        sentences += found_by(result.finding, named)
    return sentences


def found_by(finding: Finding, named: Callable[[int], str]) -> list[str]:
    """Since when the traffic has changed, and which part of it."""
    sentences, change = [], finding.change
    if change is not None:
        low, high = change.after + change.ago - change.earliest, change.after + change.ago - change.latest
        where = named(change.after) if finding.unit == "responses" else f"{change.after:,}"
        sentences.append(f"It changed about at {where} ({low:,} to {high:,}).")
    of_groups = [finding.of_groups()] if finding.groups else []
    of_inputs = [finding.of_inputs()] if finding.inputs else []
    every = [*of_groups, *finding.which(), *of_inputs]
    return sentences + [f"{words[0].upper()}{words[1:]}." for words in every]


def _rates(result: Replay, promise: Promise, severity: str) -> str:
    stretches = result.stretches[severity]
    if not stretches:
        return ""
    x = [stretch.end for stretch in stretches]
    drawn = [
        Line(x, [stretch.ceiling for stretch in stretches], "other"),
        Line([0, x[-1]], [promise.alphas[severity]] * 2, "ideal"),
        Line(x, [stretch.rate for stretch in stretches]),
    ]
    caption = "Share that alarms (blue), promised (dashed), and how far chance takes a stretch (ochre)"
    return f"<figure>{lines(caption, drawn, promise.unit, 'share')}<figcaption>{caption}.</figcaption></figure>"


def _evidence(result: Replay, severity: str) -> str:
    values = result.evidence.get(severity)
    if not values:
        return ""
    drawn = [
        Line(result.seen_at, [max(0.0, value) for value in result.drift], "other"),
        Line([0, result.seen_at[-1]], [log(len(result.evidence) / 0.01)] * 2, "ideal"),
        Line(result.seen_at, [max(0.0, value) for value in values]),
    ]
    caption = "Evidence (log) against the promise (blue) and of drift (ochre); grey: by chance once in a hundred, ever"
    return f"<figure>{lines(caption, drawn, 'seen so far', 'log evidence')}<figcaption>{caption}.</figcaption></figure>"
