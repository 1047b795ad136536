"""Conditional conformal prediction beside groups: how far the rate of parts of the traffic lies from alpha.

Gibbs, Cherian and Candes (2023, arXiv:2305.12616): with features Phi (n + 1, d) of calibration and the response that is
judged, let eta maximise sum eta_i s_i subject to Phi' eta = 0 and -alpha <= eta_i <= 1 - alpha (the dual of quantile
regression). The response alarms where its own eta is 1 - alpha, and then E[f(X) 1{alarm}] <= alpha E[f(X)] for every
f >= 0 that is linear in the features. With indicators of groups alone it is the promise for each group.

Parts by which methods are compared: the classes that the model says, and fifths of the traffic along the first three
principal directions of the inputs. The third is among nobody's features.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from scipy.optimize import linprog

from benchmarks.exact import too_many, total_of
from benchmarks.guarantees.pairs import Pair
from benchmarks.judge import FAILURE
from benchmarks.report import Check, console
from tocsin_calibration import FalseAlarmLaw, calibrate
from tocsin_calibration.thresholds.joint import JointScore

ALPHA, SCALES, CALIBRATION, FRESH = 0.1, 150, 400, 100  # rows of a split
LEAST = 60  # fresh responses of a part over all splits that are compared
BETTER = 0.9  # of the groups' deviation, at most: then it would be worth an option
MARGINAL, GROUPS = "one promise for all", "groups: classes"
SMOOTH, BOTH = "conditional: two directions", "conditional: classes and two directions"
WAYS = MARGINAL, GROUPS, SMOOTH, BOTH
Rows = NDArray[np.float64]


def everything(pairs: Iterable[Pair], splits: int) -> tuple[dict[str, Any], list[Check]]:
    """Every way on every pair that has rows enough."""
    rows = [_measured(pair, splits) for pair in pairs if len(pair.scores) >= SCALES + CALIBRATION + FRESH]
    table = Table("way", "alarms", "parts off alpha, rms", "above it, mean", "worst part", "wrong answers caught",
                  "CPU each", title=f"Parts of the traffic at {ALPHA:.0%}, means over {len(rows)} pairs")  # fmt: skip
    means: dict[str, dict[str, float]] = {}
    for way in WAYS:
        means[way] = {key: float(np.mean([row[way][key] for row in rows])) for key in rows[0][way]}
        *shares, seconds = means[way].values()
        table.add_row(way, *(f"{share:.2%}" for share in shares), f"{seconds * 1e3:.2g} ms" if seconds else "-")
    console.print(table)
    ratio = min(means[way]["deviation"] for way in (SMOOTH, BOTH)) / means[GROUPS]["deviation"]
    chance = min(row["chance"] for row in rows) * len(rows)
    console.print(f"the better of conditional is off {ratio:.2f} times as far as groups are; an option at {BETTER:g}")
    return {"mean": means, "ratio": ratio}, [
        Check("classes, alarms of all by their laws: least tail", chance, f"> {FAILURE:g}", chance > FAILURE)
    ]


def _measured(pair: Pair, splits: int) -> dict[str, Any]:
    """Alarms by part over all splits, of each way on the same rows."""
    random = np.random.default_rng([83, len(pair.scores)])
    judged: dict[str, list[NDArray[np.bool_]]] = {way: [] for way in WAYS}
    rows: list[NDArray[np.intp]] = []
    laws: list[tuple[FalseAlarmLaw, int]] = []
    seconds = dict.fromkeys(WAYS, 0.0)
    for split in range(splits):
        order = random.permutation(len(pair.scores))
        scales, calibration, fresh, _ = np.split(order, np.cumsum([SCALES, CALIBRATION, FRESH]))
        joint = JointScore(np.sort(pair.scores[scales], axis=0), "any")(pair.scores)[0]
        joint = joint + 1e-9 * random.random(len(joint))  # ties are broken, the same way for all
        names = pair.said.astype(str)
        terms = {"scales": joint[scales, None], "on_average": True, "seed": split}
        all_of_it = calibrate(joint[calibration, None], {"alarm": ALPHA}, **terms)  # type: ignore[arg-type]
        by_class = calibrate(
            joint[calibration, None], {"alarm": ALPHA}, groups=names[calibration].tolist(), **terms  # type: ignore[arg-type]
        )  # fmt: skip
        severities = by_class.judge(joint[fresh, None], names[fresh].tolist()).severities
        judged[MARGINAL].append(np.array([s is not None for s in all_of_it.judge(joint[fresh, None]).severities]))
        judged[GROUPS].append(np.array([s is not None for s in severities]))
        laws += [(limits.laws["alarm"], int((names[fresh] == name).sum())) for name, limits in by_class.groups.items()]
        along = _directions(pair.inputs, scales)[:, :2]
        of_class = (pair.said[:, None] == np.unique(pair.said[calibration])).astype(float)
        of_class = np.column_stack([of_class, of_class.sum(axis=1) == 0])
        for way, features in ((SMOOTH, np.column_stack([np.ones(len(along)), along])),
                              (BOTH, np.column_stack([of_class, along]))):  # fmt: skip
            began = time.process_time()
            judged[way].append(_alarms(features[calibration], joint[calibration], features[fresh], joint[fresh]))
            seconds[way] += (time.process_time() - began) / (FRESH * splits)
        rows.append(fresh)
    at = np.concatenate(rows)
    parts = _parts(pair, at)
    result: dict[str, Any] = {}
    for way in WAYS:
        alarmed = np.concatenate(judged[way])
        rates = np.array([alarmed[part].mean() for part in parts])
        wrong = ~pair.correct[at]
        result[way] = {
            "rate": float(alarmed.mean()),
            "deviation": float(np.sqrt(((rates - ALPHA) ** 2).mean())),
            "above": float(np.maximum(rates - ALPHA, 0).mean()),
            "worst": float(rates.max()),
            "caught": float(alarmed[wrong].mean()) if wrong.any() else 0.0,
            "seconds": seconds[way],
        }
    in_groups = sum(n for _, n in laws)
    alarms = int(np.concatenate(judged[GROUPS]).sum())
    result["chance"] = too_many(total_of([law for law in laws if law[1]]), alarms) if in_groups == len(at) else 1.0
    return result


def _alarms(features: Rows, scores: Rows, fresh: Rows, judged: Rows) -> NDArray[np.bool_]:
    """Whether each of the responses with these features (m, d) and scores (m,) alarms, without randomisation."""
    bounds, result = (-ALPHA, 1 - ALPHA), []
    for row, score in zip(fresh, judged, strict=True):
        equal = np.vstack([features, row])
        nonzero = equal[:, np.abs(equal).max(axis=0) > 0]
        solution = linprog(
            -np.append(scores, score), A_eq=nonzero.T, b_eq=np.zeros(nonzero.shape[1]), bounds=bounds, method="highs"
        )
        result.append(bool(solution.x[-1] > 1 - ALPHA - 1e-7))
    return np.array(result)


def _directions(inputs: Rows, scales: NDArray[np.intp]) -> Rows:
    """Inputs along their first three principal directions, standardised and cut off at 3."""
    centre = inputs[scales].mean(axis=0)
    directions = np.linalg.svd(inputs[scales] - centre, full_matrices=False)[2][:3]
    along = (inputs - centre) @ directions.T
    standardised: Rows = np.clip(along / (along[scales].std(axis=0) + 1e-9), -3, 3)
    return standardised


def _parts(pair: Pair, at: NDArray[np.intp]) -> list[NDArray[np.bool_]]:
    """Classes, and fifths along three directions, of which there are enough responses."""
    along = _directions(pair.inputs, np.arange(len(pair.inputs)))[at]
    parts = [pair.said[at] == name for name in np.unique(pair.said)]
    for column in along.T:
        bins = np.searchsorted(np.quantile(column, [0.2, 0.4, 0.6, 0.8]), column)
        parts += [bins == number for number in range(5)]
    return [part for part in parts if part.sum() >= LEAST]
