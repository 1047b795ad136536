"""An evaluation as tables and sentences in the terminal."""

from __future__ import annotations

from rich.console import Console

from tocsin.cli.tables import print_table
from tocsin_calibration import Evaluation
from tocsin_calibration.evaluation.results import Labelled, Power


def show_evaluation(console: Console, evaluation: Evaluation) -> None:
    """Print an evaluation as tables."""
    columns = (evaluation.unit, "promised", "alarms", "rate", "99% interval", "expected 99 times of 100", "")
    every = [*reversed(evaluation.severities.items()), *((f"group {g}", k) for g, k in evaluation.groups.items())]
    rows = [
        (
            name,
            f"{check.alpha:.3g}",
            f"{check.alarms:,} of {check.n:,}",
            f"{check.rate:.2%}",
            f"{check.low:.2%} to {check.high:.2%}",
            f"{check.least:,} to {check.most:,}",
            check.word,
        )
        for name, check in every
    ]
    print_table(console, columns, rows)
    if evaluation.parts:
        _show_parts(console, evaluation)
    if evaluation.drift is not None:
        console.print(
            f"log evidence of drift since calibration: {evaluation.drift:.2f} (4.6 by chance once in a hundred)"
        )
    if (seeds := evaluation.seeds) is not None:
        console.print(
            f"calibrated anew on random halves, {seeds.splits} times: {seeds.mean:.2%}, standard deviation "
            f"{seeds.deviation:.2%} (the law expects {seeds.expected:.2%})"
        )
    if evaluation.labelled is not None:
        _show_labelled(console, evaluation.labelled)
    if evaluation.power is not None:
        _show_power(console, evaluation.power)


def _show_parts(console: Console, evaluation: Evaluation) -> None:
    name, check = list(evaluation.severities.items())[-1]
    rows = [
        (f"{part.kind} {part.name}", f"{part.alarms:,} of {part.n:,}", f"{part.rate:.2%}",
         f"{part.low:.2%} to {part.high:.2%}", part.word)
        for part in evaluation.parts
    ]  # fmt: skip
    print_table(console, (f"parts, {name}", "alarms", "rate", "99% interval, all at once", ""), rows)
    high = sum(bool(part.word) for part in evaluation.parts)
    console.print(
        f"{high} of {len(rows)} parts alarm at more than {check.alpha:.3g} for sure (a wrong one at most once in a "
        f"hundred evaluations); a promise for all says nothing of parts, calibrate --groups makes one for each"
    )


def _show_labelled(console: Console, labelled: Labelled) -> None:
    console.print(f"\n{labelled.n:,} labelled answers, {labelled.accuracy:.2%} right")
    console.print(f"AURC {labelled.curve.aurc:.4f}, {labelled.curve.excess:.4f} above a perfect order")
    if labelled.separation is not None:
        a, f = labelled.separation
        console.print(
            f"wrong answers: AUROC {a.value:.3f} ({a.low:.3f} to {a.high:.3f}), FPR at 95% TPR {f.value:.3f} "
            f"({f.low:.3f} to {f.high:.3f})"
        )
    if (p := labelled.probabilities) is not None:
        console.print(
            f"probabilities: ECE {p.ece.error:.4f} ({p.ece.low:.4f} to {p.ece.high:.4f}; by chance up to "
            f"{p.ece.by_chance:.4f}), Brier {p.brier:.4f}, NLL {p.nll:.4f}"
        )
        console.print(
            f"expected DCS {p.expected_dcs:+.4f}; worth an answer: {p.worth_always:+.4f} answering everything, "
            f"{p.worth_policy:+.4f} by the policy "
            f"({p.served:.1%} served, {p.flagged:.1%} flagged)"
        )
    if labelled.dcs is not None:
        console.print(f"DCS {labelled.dcs:+.4f} (Distributional Correctness Score of the answers' own distributions)")
    for name, accuracy in labelled.accuracy_by_group.items():
        console.print(
            f"group {name}: {accuracy:.2%} right; its risk moves with the whole, r = "
            f"{labelled.subgroups[name].correlation:.2f}"
        )
    if labelled.spread is not None:
        harmony = "needs three or more" if labelled.harmony is None else f"{labelled.harmony:.3f} (1 = all alike)"
        console.print(f"accuracy of groups: {labelled.spread:.2%} between best and worst; harmony of groups {harmony}")


def _show_power(console: Console, power: Power) -> None:
    console.print()
    for name, (count, low, high) in reversed(power.caught.items()):
        console.print(f"caught, {name}: {count:,} of {power.n:,} ({count / power.n:.1%}; {low:.1%} to {high:.1%})")
    for name, separation in power.separation.items():
        console.print(
            f"AUROC, {name}: {separation.auroc.value:.3f} ({separation.auroc.low:.3f} to "
            f"{separation.auroc.high:.3f}), FPR at 95% TPR "
            f"{separation.fpr95.value:.3f}"
        )
    if (m := power.sessions) is not None:
        console.print(
            f"sessions: TPR {m.tpr:.3f}, TNR {m.tnr:.3f}, detection time {m.detection_time:.3f}, TWA {m.twa:.3f}"
        )
