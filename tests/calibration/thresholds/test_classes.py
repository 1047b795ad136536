"""Claims about promises for the classes that responses name themselves."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from benchmarks.exact import too_few, too_many, total_of
from benchmarks.harness.parts import quick_bundle
from numpy.typing import NDArray

from tocsin_calibration import Bundle, BundleError, FalseAlarmLaw, calibrate
from tocsin_calibration.thresholds.classes import Classes

CLASSES = Classes("probs", 4)
FAILURE = 1e-4 / 16  # two tails of four classes and of the whole, and the planted mistake, below 1e-4 in all


def drawn(random: np.random.Generator, rows: int) -> tuple[NDArray[np.float64], list[str]]:
    """Scores (n, 1) that depend on the class, and its names: the last class is rare and the hardest."""
    probs = random.dirichlet([4.0, 3.0, 2.0, 1.0], rows)
    names = CLASSES.of(probs)
    entropy = -(probs * np.log(probs)).sum(axis=1)
    return (entropy * (1.0 + np.array(names, float)))[:, None], names


def test_each_class_alarms_by_its_own_law_and_not_by_that_of_all() -> None:
    random = np.random.default_rng(11)
    laws: dict[str, list[tuple[FalseAlarmLaw, int]]] = {}
    alarms: dict[str, int] = {}
    pooled: list[tuple[FalseAlarmLaw, int]] = []
    pooled_alarms = 0
    for run in range(100):
        scores, names = drawn(random, 1_200)
        terms = {"groups": names, "on_average": True, "seed": run}
        promise = calibrate(scores, {"alarm": 0.1}, **terms)  # type: ignore[arg-type]
        fresh, said = drawn(random, 400)
        severities = promise.judge(fresh, said).severities
        for name, limits in promise.groups.items():
            of_class = [severity for severity, other in zip(severities, said, strict=True) if other == name]
            laws.setdefault(name, []).append((limits.laws["alarm"], len(of_class)))
            alarms[name] = alarms.get(name, 0) + sum(severity is not None for severity in of_class)
        hardest = np.array(said) == "2"  # held to the thresholds of all, which say nothing of it
        pooled_alarms += int((promise.joint(fresh)[hardest] > promise.thresholds["alarm"]).sum())
        pooled.append((promise.laws["alarm"], int(hardest.sum())))
    assert {"0", "1", "2"} <= set(laws)
    for name, several in laws.items():
        pmf = total_of(several)
        assert min(too_many(pmf, alarms[name]), too_few(pmf, alarms[name])) > FAILURE, name
    assert too_many(total_of(pooled), pooled_alarms) < FAILURE


def test_a_class_is_the_place_of_the_largest_or_the_label_itself() -> None:
    nan = float("nan")
    assert Classes("probs", 3).of(np.array([[0.1, 0.7, 0.2], [0.5, 0.5, 0.0], [nan, 1.0, 0.0]])) == ["1", "0", ""]
    assert Classes("logits", 2).of(np.array([[-np.inf, -3.0]], np.float32)) == ["1"]
    assert Classes("label", 1).of(np.array([[3.0], [-1.0], [2.5], [nan]])) == ["3", "-1", "2.5", ""]


def test_what_names_classes_comes_back_from_the_bundle_or_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.tocsin"
    bundle = quick_bundle(path)
    assert bundle.promise is not None and Bundle.read(path).require_promise().classes is None
    for classes in (Classes("probs", 10), Classes("label", 1)):
        bundle.promise.classes = classes
        assert dataclasses.replace(bundle).write(path) and Bundle.read(path).require_promise().classes == classes
    bundle.promise.classes = Classes("probs", 9)
    dataclasses.replace(bundle).write(path)
    with pytest.raises(BundleError, match="has classes by 9 numbers of 'probs', unlike its graph"):
        Bundle.read(path)


def test_few_rows_have_the_classes_that_many_have() -> None:
    values = np.random.default_rng(3).integers(-2, 3, (60, 5)).astype(np.float32)  # with many ties
    values[7], values[8, 1:] = -np.inf, -0.0
    classes = Classes("logits", 5)
    assert classes.of(values, is_finite=True) == classes.of(values) == [str(place) for place in values.argmax(axis=1)]
    for rows in (values[:1], values[5:13], values[:25]):
        assert classes.of(rows, is_finite=True) == classes.of(rows)
