"""Multiple choice: the distribution over choices in one order and averaged over four, and what serving it is worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.report import Check, console
from benchmarks.streams.answers import Answer
from benchmarks.streams.questions import IDK, LETTERS
from benchmarks.streams.signals import CHOICES, choice_probs, choice_reader
from tocsin_calibration.evaluation.metrics import expected_calibration_error
from tocsin_calibration.risk.correctness import VennAbers
from tocsin_calibration.risk.dcs import distributional_correctness, expected_dcs


def choose(answers: Sequence[Answer]) -> tuple[dict[str, Any], list[Check]]:
    """Accuracy, calibration and DCS of single orders and of averages over the orders of a question."""
    reader = choice_reader(list(CHOICES.values()))
    by_question: dict[str, list[tuple[np.ndarray, int]]] = {}
    for answer in answers:
        probs = choice_probs(reader, answer)
        shown = list(answer.question.choices)
        order = [shown.index(name) for name in sorted(shown, key=lambda name: (name == IDK, name))]  # the same for all
        right = order.index(LETTERS.index(answer.question.answer))
        by_question.setdefault(answer.question.key, []).append((probs[order], right))
    groups = list(by_question.values())
    single = np.stack([group[0][0] for group in groups]), np.array([group[0][1] for group in groups])
    mean = np.stack([np.mean([probs for probs, _ in group], axis=0) for group in groups]), single[1]
    table = Table(
        "choices of",
        "accuracy",
        "ECE",
        "ECE calibrated",
        "DCS",
        "DCS of the policy",
        title=f"{len(groups)} multiple-choice questions",
    )
    results: dict[str, Any] = {}
    for name, (probs, labels) in (("one order", single), ("four orders averaged", mean)):
        results[name] = _judged(probs, labels)
        row = results[name]
        table.add_row(
            name, f"{row['accuracy']:.1%}", f"{row['ece']:.3f}", f"{row['ece calibrated']:.3f}", f"{row['dcs']:+.3f}",
            f"{row['dcs of the policy']:+.3f}",
        )  # fmt: skip
    console.print(table)
    gains = [results[name]["dcs of the policy"] - results[name]["dcs"] for name in results]
    better = min(results[name]["ece"] - results[name]["ece calibrated"] for name in results)
    return results, [
        Check(
            "DCS of the policy above that of always answering, choices", round(min(gains), 4), ">= 0", min(gains) >= 0
        ),
        Check("ECE that calibration takes away, choices", round(better, 4), "> 0", better > 0),
    ]


def _judged(probs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Calibrated on one half, judged on the other, both ways round; abstaining is no answer."""
    idk = probs.shape[1] - 1
    choices = probs[:, :idk].argmax(axis=1)
    confidence = probs[np.arange(len(probs)), choices] / (1 - probs[:, idk])
    right = choices == labels
    halves = np.array_split(np.random.default_rng(7).permutation(len(probs)), 2)
    calibrated, policy = np.zeros(len(probs)), np.zeros(len(probs))
    dcs = distributional_correctness(probs, labels, idk)
    for calibration, fresh in (halves, halves[::-1]):
        p = VennAbers.fit(1 - confidence[calibration], right[calibration])(1 - confidence[fresh])
        calibrated[fresh] = p
        policy[fresh] = np.where(expected_dcs(p, probs[fresh, idk]) > 0, dcs[fresh], 0.0)
    return {
        "accuracy": float(right.mean()), "ece": expected_calibration_error(confidence, right).error,
        "ece calibrated": expected_calibration_error(calibrated, right).error, "dcs": float(dcs.mean()),
        "dcs of the policy": float(policy.mean()), "mass on abstaining": float(probs[:, idk].mean()),
    }  # fmt: skip
