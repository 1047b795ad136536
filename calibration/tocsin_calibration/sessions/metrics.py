"""How well failed sessions are told from good ones: true positives and negatives, and how early (FIPER; Römer et al.
2025).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tocsin_calibration.errors import CalibrationError


class SessionMetrics(NamedTuple):
    """Shares in [0, 1]; NaN where there is nothing to take a share of.

    `tpr`: of the failed sessions, those that alarmed. `tnr`: of the safe ones, those that did not. `detection_time`: of
    the failed ones that alarmed, the mean share of the session that had passed. `twa`, timestep-wise accuracy: the mean
    of tnr and of 1 - detection time over failed sessions, missed ones counting 0.
    """

    tpr: float
    tnr: float
    balanced_accuracy: float
    detection_time: float
    twa: float


def session_metrics(
    alarm_steps: Sequence[int | None], lengths: Sequence[int], failed: Sequence[bool]
) -> SessionMetrics:
    """From each session's first alarmed step (from 0, or None), its length, and whether it failed.

    Raises CalibrationError when the three differ in length or a step lies outside its session.

        >>> session_metrics([3, None, None], lengths=[10, 10, 10], failed=[True, False, True])
        SessionMetrics(tpr=0.5, tnr=1.0, balanced_accuracy=0.75, detection_time=0.3, twa=0.675)
    """
    if not len(alarm_steps) == len(lengths) == len(failed):
        raise CalibrationError("alarms, lengths and failures must be told for the same sessions")
    for at, (step, length) in enumerate(zip(alarm_steps, lengths, strict=True)):
        if length < 1 or (step is not None and not 0 <= step < length):
            raise CalibrationError(f"session {at} of {length} steps cannot have alarmed at step {step}")
    bad = np.asarray(failed, bool)
    alarmed = np.array([step is not None for step in alarm_steps], bool)
    passed = np.array([1.0 if s is None else s / n for s, n in zip(alarm_steps, lengths, strict=True)])
    tpr, tnr = _mean(alarmed[bad]), _mean(~alarmed[~bad])
    return SessionMetrics(tpr, tnr, (tpr + tnr) / 2, _mean(passed[bad & alarmed]), 0.5 * (tnr + _mean(1 - passed[bad])))


def _mean(values: np.ndarray[tuple[int], np.dtype[np.generic]]) -> float:
    return float(values.mean()) if len(values) else float("nan")
