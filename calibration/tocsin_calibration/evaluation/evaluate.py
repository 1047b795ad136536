"""One evaluation of a calibrated bundle on data it has never seen: all figures in one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tocsin_calibration.errors import CalibrationError
from tocsin_calibration.evaluation.by_session import SessionOutcome, by_session
from tocsin_calibration.evaluation.conditional import PartCheck, conditional
from tocsin_calibration.evaluation.kept import (
    PromiseCheck,
    SeedToSeed,
    kept_by_group,
    kept_by_severity,
    kept_over_groups,
    seed_to_seed,
)
from tocsin_calibration.evaluation.metrics import (
    brier,
    expected_calibration_error,
    negative_log_likelihood,
    reliability,
    risk_coverage,
)
from tocsin_calibration.evaluation.results import BINS, Evaluation, Labelled, Power, Probabilities
from tocsin_calibration.evaluation.subgroups import harmony, subgroup_curves
from tocsin_calibration.online.drift import DriftWatch
from tocsin_calibration.promise import Promise
from tocsin_calibration.risk.dcs import ternary
from tocsin_calibration.risk.decision import Costs, RiskPolicy, WeighedAnswers
from tocsin_calibration.sessions.grouping import rows_by_session
from tocsin_calibration.sessions.metrics import session_metrics
from tocsin_calibration.thresholds.binomial import clopper_pearson
from tocsin_detectors.separation import separation

Float64 = NDArray[np.float64]


def evaluate(
    promise: Promise,
    scores: NDArray[np.floating],
    *,
    groups: Sequence[str] | None = None,
    sessions: Sequence[str] | None = None,
    correct: ArrayLike | None = None,
    dcs: ArrayLike | None = None,
    failures: NDArray[np.floating] | None = None,
    failed_sessions: Sequence[str] | None = None,
    failed_groups: Sequence[str] | None = None,
    risk: RiskPolicy | None = None,
    costs: Costs = Costs(),
    columns: Mapping[str, Sequence[object]] | None = None,
    inputs: NDArray[np.floating] | None = None,
) -> Evaluation:
    """From detectors' scores (n, d) of safe responses, and what else is known of them, row by row.

    `groups`, `sessions`: names (n,). `correct` (n,): whether answers were right; `dcs` (n,): their scores by
    `distributional_correctness`, where their distributions are known. `failures` (m, d): scores of responses that
    should alarm, with their `failed_sessions` or `failed_groups` (m,). `columns`: values (n,) by which parts of the
    traffic are distinguished, and `inputs` (n, k), in which the worst slab is searched (see `conditional`); a session
    has those of its first response, and the mean of its inputs. Raises CalibrationError when their lengths differ, when
    scores are not finite, and when the promise is for sessions and none are named.

        >>> from tocsin_calibration import calibrate
        >>> import numpy as np
        >>> calibration, fresh = np.random.default_rng(0).normal(size=(2, 2_000, 1))
        >>> evaluate(calibrate(calibration), fresh).facts()["severities"]["warning"]["word"]
        'kept'
    """
    lists = (("groups", groups), ("sessions", sessions), ("labels", correct), ("DCS values", dcs))
    for name, column in lists:
        if column is not None and len(np.asarray(column)) != len(scores):
            raise CalibrationError(f"there are {len(np.asarray(column))} {name} for {len(scores)} responses")
    if failures is not None and failed_sessions is not None and len(failed_sessions) != len(failures):
        raise CalibrationError(f"there are {len(failed_sessions)} failed sessions for {len(failures)} failures")
    if not len(scores):
        raise CalibrationError("there is nothing to evaluate on")
    for what, values in (("responses", scores), ("failures", failures)):
        if values is not None and (broken := ~np.isfinite(values).reshape(len(values), -1).all(axis=1)).any():
            raise CalibrationError(
                f"{int(broken.sum())} of {len(values)} {what} have a NaN or infinite score (the first is row "
                f"{int(np.argmax(broken))}); leave them out, and count them apart"
            )
    joint = promise.joint(scores)
    unit, limits, outcome = promise.unit, promise.limits, None
    if promise.sessions is not None:
        outcome = by_session(promise, scores, sessions)
        unit, severities, limits = outcome.promised(promise)
        pvalues = outcome.pvalues
        by_group: dict[str, PromiseCheck] = {}
        drift: float | None = None
        seeds: SeedToSeed | None = None
    else:
        judged = promise.judge(scores, groups)
        severities, pvalues = judged.severities, judged.pvalues
        by_group = {} if groups is None or not promise.groups else kept_by_group(promise, severities, groups)
        drift = None
        if promise.watches_drift:
            watch = DriftWatch(promise.nonconformity, auxiliary=promise.auxiliary, seed=0)
            watch.add(judged.joint)
            drift = watch.log_evidence()
        seeds = seed_to_seed(joint, list(promise.alphas.values())[-1])
    by_severity = kept_by_severity(promise, severities, limits)
    parts = _parts(promise, severities, outcome, columns or {}, inputs, sessions)
    if promise.sessions is None and promise.groups and groups is not None:
        by_severity = kept_over_groups(promise, severities, groups)
    return Evaluation(
        unit,
        by_severity,
        by_group,
        np.histogram(pvalues, BINS, (0, 1))[0].tolist(),
        drift,
        seeds,
        None if correct is None else _labelled(joint, scores, np.asarray(correct, bool), groups, risk, costs, dcs),
        None if failures is None else _power(promise, scores, outcome, failures, failed_sessions, failed_groups),
        parts,
    )


def _parts(
    promise: Promise,
    severities: Sequence[str | None],
    outcome: SessionOutcome | None,
    columns: Mapping[str, Sequence[object]],
    inputs: NDArray[np.floating] | None,
    sessions: Sequence[str] | None,
) -> list[PartCheck]:
    """Parts of the traffic, or of its sessions. Raises CalibrationError where sessions are cut or judged by step."""
    if not columns and inputs is None:
        return []
    if outcome is not None:
        assert promise.sessions is not None and sessions is not None
        if promise.sessions.every is not None or promise.is_per_step:
            raise CalibrationError(
                "parts of the traffic are told of whole sessions: not of stretches, nor step by step"
            )
        rows = rows_by_session(sessions)
        columns = {kind: [values[session[0]] for session in rows] for kind, values in columns.items()}
        inputs = None if inputs is None else np.array([inputs[session].mean(axis=0) for session in rows])
    alarmed = [severity is not None for severity in severities]
    return conditional(alarmed, list(promise.alphas.values())[-1], columns, inputs)


def _labelled(
    joint: Float64,
    scores: NDArray[np.floating],
    correct: NDArray[np.bool_],
    groups: Sequence[str] | None,
    risk: RiskPolicy | None,
    costs: Costs,
    dcs: ArrayLike | None,
) -> Labelled:
    """What labels say: accuracy, how scores order answers, and what the risk policy earns."""
    both = correct.any() and not correct.all()
    names = None if groups is None else np.asarray(groups, str)
    accuracy = {} if names is None else {str(name): float(correct[names == name].mean()) for name in np.unique(names)}
    weighed = None if risk is None else risk.weigh(scores, costs)
    ranked = joint if weighed is None else -weighed.p_correct
    return Labelled(
        len(correct),
        float(correct.mean()),
        separation(joint[correct], joint[~correct]) if both else None,
        risk_coverage(ranked, ~correct),
        None if weighed is None else _probabilities(weighed, correct, costs),
        None if dcs is None else float(np.asarray(dcs, np.float64).mean()),
        accuracy,
        harmony(list(accuracy.values())) if len(accuracy) > 2 else None,
        max(accuracy.values()) - min(accuracy.values()) if len(accuracy) > 1 else None,
        {} if names is None else subgroup_curves(ranked, ~correct, names.tolist()),
    )


def _probabilities(weighed: WeighedAnswers, correct: NDArray[np.bool_], costs: Costs) -> Probabilities:
    """How well a policy's probabilities are calibrated, and what its decisions earn an answer."""
    decisions = np.asarray(weighed.decisions)
    value = ternary(correct, decisions == "abstain", costs.loads)
    reviewed = decisions == "flag"
    value[reviewed] = np.where(correct[reviewed], costs.right_earns, 0.0) - (costs.review_costs or 0.0)
    return Probabilities(
        expected_calibration_error(weighed.p_correct, correct),
        reliability(weighed.p_correct, correct),
        brier(weighed.p_correct, correct),
        negative_log_likelihood(weighed.p_correct, correct),
        float(weighed.served.mean()),
        float(ternary(correct, np.zeros(len(correct), bool), costs.loads).mean()),
        float(value.mean()),
        float((decisions == "serve").mean()),
        float(reviewed.mean()),
    )


def _power(
    promise: Promise,
    safe: NDArray[np.floating],
    fine: SessionOutcome | None,
    failures: NDArray[np.floating],
    failed_sessions: Sequence[str] | None,
    failed_groups: Sequence[str] | None,
) -> Power:
    """How many failures alarm, and how well scores separate them from safe responses."""
    metrics = None
    if fine is not None:
        failed = by_session(promise, failures, failed_sessions)
        severities = failed.severities
        metrics = session_metrics(
            fine.first + failed.first,
            fine.lengths + failed.lengths,
            [False] * len(fine.first) + [True] * len(failed.first),
        )
    else:
        severities = promise.judge(failures, failed_groups).severities
    caught = {}
    for name, alpha in promise.alphas.items():
        count = sum(s is not None and promise.alphas[s] <= alpha for s in severities)
        caught[name] = (count, *clopper_pearson(count, len(severities)))
    by_column = {"joint": separation(promise.joint(safe), promise.joint(failures))}
    for at, name in enumerate(promise.detectors):
        by_column[name] = separation(safe[:, at], failures[:, at])
    return Power(len(severities), caught, by_column, metrics)
