"""An evaluation as one HTML page: in words for who decides, in numbers and pictures for who checks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from math import exp

from tocsin_calibration.evaluation.kept import PromiseCheck
from tocsin_calibration.evaluation.page import facts_table, page
from tocsin_calibration.evaluation.pictures import ChartRow, Line, histogram, intervals, lines
from tocsin_calibration.evaluation.results import Evaluation, Labelled, Power
from tocsin_calibration.wording import percent


def report(evaluation: Evaluation, *, title: str, promise: str, about: Sequence[tuple[str, str]] = ()) -> str:
    """The page. `promise`: its sentences, a line each; `about`: what was evaluated on what, as rows of a table."""
    parts = [
        *(
            f'<p class="say">{_sentence(name, check, evaluation.unit)}</p>'
            for name, check in evaluation.severities.items()
        ),
        "<h2>What was promised, and what was seen</h2>",
        *(f"<p>{escape(line)}</p>" for line in promise.splitlines()),
        _alarms(evaluation),
    ]
    if evaluation.groups:
        parts += ["<h2>Group by group</h2>", _kept_picture(evaluation.groups, "Alarm rates by group")]
    if evaluation.parts:
        rows = [
            (f"{part.kind} {part.name}", f"{part.alarms:,} of {part.n:,} ({part.rate:.2%}; {part.low:.2%} to "
             f"{part.high:.2%}){', higher than promised for all' if part.word else ''}")
            for part in evaluation.parts
        ]  # fmt: skip
        parts += ["<h2>Parts of the traffic</h2>", facts_table(rows)]
    if evaluation.labelled is not None:
        parts += _labelled(evaluation.labelled)
    if evaluation.power is not None:
        parts += _power(evaluation.power)
    parts += ["<h2>What this was</h2>", facts_table(about)]
    parts.append(f"<details><summary>All figures, as JSON</summary><pre>{escape(_json(evaluation))}</pre></details>")
    return page(title, parts)


def _sentence(name: str, check: PromiseCheck, unit: str) -> str:
    """Whether one severity's promise was kept, as HTML."""
    words = {
        "kept": "The promise was kept",
        "broken": "The promise was <b>broken</b>",
        "quiet": "The promise was kept, with fewer alarms than expected",
        "unknown": "Nothing was seen",
    }
    return (
        f'<span class="{check.word}">{words[check.word]}.</span> At most {percent(check.alpha)} of safe '
        f"{escape(unit)} may "
        f"raise a {escape(name)} alarm; {check.alarms:,} of {check.n:,} did ({check.rate:.2%}), where "
        f"{check.least:,} to "
        f"{check.most:,} are to be expected 99 times of 100."
    )


def _alarms(evaluation: Evaluation) -> str:
    """The section about alarm rates and p-values, as HTML."""
    total = sum(evaluation.pvalues)
    title = "P-values: flat where the promise holds, high at the left where too many responses stand out"
    notes = []
    if evaluation.drift is not None:
        notes.append(
            f"Evidence that scores have drifted since calibration: {exp(min(evaluation.drift, 50)):.3g} "
            f"(1 = none; 100 is exceeded by chance once in a hundred times)."
        )
    if (seeds := evaluation.seeds) is not None:
        notes.append(
            f"Calibrating anew on random halves {seeds.splits} times gives alarm rates of {seeds.mean:.2%} with a "
            f"standard deviation of {seeds.deviation:.2%}; the law expects {seeds.expected:.2%}."
        )
    return (
        _kept_picture(evaluation.severities, "Alarm rates by severity") + f"<div "
        f'class="pair"><figure>{histogram(title, evaluation.pvalues, total / len(evaluation.pvalues), "p-value")}'
        + f"<figcaption>{title}.</figcaption></figure><div>"
        + "".join(f"<p>{note}</p>" for note in notes)
        + "</div></div>"
    )


def _kept_picture(checks: dict[str, PromiseCheck], title: str) -> str:
    """Alarm rates with their intervals, as HTML; empty where nothing was counted."""
    rows = [
        ChartRow(name, check.rate, check.low, check.high, (check.least / check.n, check.most / check.n), check.word)
        for name, check in checks.items()
        if check.n
    ]
    if not rows:
        return ""
    return (
        f"<figure>{intervals(title, rows)}<figcaption>{title}: dot and line are what was seen, with its exact 99% "
        f"interval; the band is where a kept promise puts the dot 99 times of 100.</figcaption></figure>"
    )


def _labelled(labelled: Labelled) -> list[str]:
    """The section about labelled answers, as pieces of HTML."""
    curve = labelled.curve
    at = [round(i * (len(curve.risk) - 1) / 200) for i in range(201)]
    drawn = [Line([float(curve.coverage[i]) for i in at], [float(curve.risk[i]) for i in at])]
    for group in labelled.subgroups.values():
        drawn.append(Line(group.coverage, group.here, "other"))
    title = "Error among served answers, by the share that is served, best-scored first"
    rows = [("answers", f"{labelled.n:,}, {labelled.accuracy:.2%} right"), ("AURC", f"{curve.aurc:.4f}"),
            ("excess AURC", f"{curve.excess:.4f} above a perfect order")]  # fmt: skip
    if labelled.separation is not None:
        auroc, fpr = labelled.separation
        rows += [
            ("AUROC of wrong answers", f"{auroc.value:.3f} ({auroc.low:.3f} to {auroc.high:.3f})"),
            ("FPR at 95% TPR", f"{fpr.value:.3f} ({fpr.low:.3f} to {fpr.high:.3f})"),
        ]
    if labelled.dcs is not None:
        rows.append(("DCS", f"{labelled.dcs:+.4f}, of the answers' own distributions"))
    if labelled.spread is not None:
        rows.append(("accuracy of groups", f"{labelled.spread:.2%} between best and worst"))
    if labelled.harmony is not None:
        rows.append(("harmony of groups", f"{labelled.harmony:.3f} of 1 (evenness of accuracy)"))
    for name, group in labelled.subgroups.items():
        rows.append((f"group {name}", f"{labelled.accuracy_by_group[name]:.2%} right, risk moves with the whole: "
                                      f"{group.correlation:.2f}"))  # fmt: skip
    thin = "; thin lines are the groups" if labelled.subgroups else ""
    parts = [
        "<h2>Right and wrong answers</h2>",
        f'<div class="pair"><figure>{lines(title, drawn, "share served", "error")}<figcaption>{title}{thin}.'
        f"</figcaption></figure>{facts_table(rows)}</div>",
    ]
    if (p := labelled.probabilities) is not None:
        title = "Calibrated probability of being right, against the share that was right"
        drawn = [Line([0, 1], [0, 1], "ideal"), Line(p.reliability.predicted, p.reliability.right)]
        ece = p.ece
        rows = [
            ("ECE", f"{ece.error:.4f} ({ece.low:.4f} to {ece.high:.4f}); by chance up to {ece.by_chance:.4f}"),
            ("Brier", f"{p.brier:.4f}"),
            ("NLL", f"{p.nll:.4f} nats"),
            ("expected DCS", f"{p.expected_dcs:+.4f}, as computed online"),
            ("worth, answering everything", f"{p.worth_always:+.4f} an answer"),
            ("worth, by the policy", f"{p.worth_policy:+.4f} an answer"),
            ("the policy", f"{p.served:.1%} served, {p.flagged:.1%} flagged, the others abstained from"),
        ]
        parts.append(
            f'<div class="pair"><figure>{lines(title, drawn, "probability said", "share right", 1.0)}'
            f"<figcaption>{title}.</figcaption></figure>{facts_table(rows)}</div>"
        )
    return parts


def _power(power: Power) -> list[str]:
    """The section about failures, as pieces of HTML."""
    rows = [
        (f"caught, {name}", f"{count:,} of {power.n:,} ({count / power.n:.1%}; 99% interval {low:.1%} to {high:.1%})")
        for name, (count, low, high) in power.caught.items()
    ]
    rows += [
        (f"AUROC, {name}", f"{separation.auroc.value:.3f} ({separation.auroc.low:.3f} to {separation.auroc.high:.3f})")
        for name, separation in power.separation.items()
    ]
    if (m := power.sessions) is not None:
        rows += [
            ("TPR, TNR", f"{m.tpr:.3f}, {m.tnr:.3f}"),
            ("detection time", f"{m.detection_time:.3f} of the session"),
            ("TWA", f"{m.twa:.3f}"),
        ]
    return ["<h2>What is caught</h2>", facts_table(rows)]


def _json(evaluation: Evaluation) -> str:
    return json.dumps(evaluation.facts(), indent=1)
