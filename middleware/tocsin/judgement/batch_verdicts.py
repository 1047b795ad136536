"""The scores of one model's batch, and the verdict of each call in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tocsin.judgement.call import Call, Read
from tocsin.judgement.judge import Judgement
from tocsin.judgement.message_run import MessageRun
from tocsin.judgement.policy import Policy
from tocsin.judgement.scoring import Scoring
from tocsin.protocols.rows import Stacking
from tocsin.unscored import Unscored
from tocsin.verdict import Verdict


def finite_scores(scoring: Scoring, batch: Stacking) -> NDArray[np.float32]:
    """The scores (n, d) of a batch, float32.

    Raises Unscored `not_finite` where a score is NaN or infinite, or a signal that detectors would hide it in; and
    whatever the scorer raises.
    """
    natively = scoring.run_natively(batch)
    if natively is not None:
        return natively
    signals = batch.signals()
    scores = scoring.run(signals)
    masked = scoring.scorer.masked
    if _is_finite(scores) and all(
        _is_meaningful(signals[name], name in masked) for name in scoring.nonfinite_masked_signals
    ):
        return scores
    broken = [name for name, values in signals.items() if not _is_meaningful(values, name in masked)]
    raise Unscored(
        "not_finite", f"signal '{broken[0]}' holds NaN or infinity" if broken else "a score is NaN or infinite"
    )


def give_verdicts(
    scoring: Scoring, policy: Policy, batch: Sequence[Read], judged: Judgement
) -> tuple[list[Call], list[tuple[Call, range]]]:
    """Give the calls of a judged batch their verdicts, with the actions that a model's policy decides.

    Returns the calls that have one now, and those that nobody waits for any more, each with the places of its rows.
    """
    at = 0
    calls: list[Call] = []
    late: list[tuple[Call, range]] = []
    pvalues, by_detector, severities, weighed = judged.pvalues, judged.by_detector, judged.severities, judged.weighed
    identifiers = judged.identifiers
    plain, detectors, digest = policy.plain, scoring.scorer.detectors, scoring.digest
    is_list = isinstance(by_detector, list)
    names = iter(identifiers)
    for call, rows, _ in batch:
        first, at = at, at + rows
        identifier = next(names) if identifiers else ""
        if call.is_late or (call.parent is not None and call.parent.is_late):
            late.append((call, range(first, at)))
            continue
        if isinstance(call, MessageRun):
            of_run = pvalues[first:at], severities[first:at], by_detector[first:at]
            calls += call.conclude_rows(*of_run, detectors, digest)
            continue
        severity, worst = severities[first], first
        if rows == 1:
            pvalues_of_rows, severities_of_rows = [pvalues[first]], [severity]
        else:
            pvalues_of_rows, severities_of_rows = pvalues[first:at], severities[first:at]
            severity = scoring.promise.gravest(severities_of_rows)
            worst = min(range(first, at), key=pvalues.__getitem__)
        details: Any = by_detector[worst]
        weighed_rows = None if weighed is None else weighed.rows(first, at)
        call.verdict = Verdict(
            call.model,
            call.version,
            digest,
            pvalues_of_rows,
            severities_of_rows,
            detectors,
            details if is_list else details.tolist(),
            severity,
            weighed_rows,
            identifier,
            action=None if plain else policy.action(severity, severities_of_rows, weighed_rows, call),
        )
        calls.append(call)
    return calls, late


def _is_finite(values: NDArray[np.float32]) -> bool:
    """Whether all values are finite. Faster than `np.isfinite(values).all()`."""
    return b"\0" not in np.isfinite(values).tobytes()


def _is_meaningful(values: NDArray[np.float32], masked: bool) -> bool:
    """Whether all values of a signal are finite. Where the signal is `masked`, -inf passes: the logarithm of 0."""
    return b"\0" not in np.less(values, np.inf).tobytes() if masked else _is_finite(values)
