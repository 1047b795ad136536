"""The metrics that a gate reads, and the meaning of their labels."""

from __future__ import annotations

from collections.abc import Mapping

TOTAL, ALARMS = "tocsin_promised_total", "tocsin_promised_alarms_total"  # alarms of a severity or a more severe one
RESPONSES, RAISED = "tocsin_responses_total", "tocsin_alarms_total"  # by version, alarms of exactly one severity
UNSCORED, SHADOW, BEGAN = "tocsin_unscored_total", "tocsin_shadow_responses_total", "process_start_time_seconds"

FAILED = "failed"  # in place of a candidate's severity


def at_least(severity: str, alphas: Mapping[str, float]) -> frozenset[str]:
    """A severity and those that are more severe, by their promised rates."""
    return frozenset(name for name, alpha in alphas.items() if alpha <= alphas[severity])


def pair_columns(labels: Mapping[str, str], severe: frozenset[str]) -> tuple[float, float, float, float, float]:
    """Which counts of pairs a series of the shadow belongs to: responses, alarms by both, by the candidate alone, by
    the live bundle alone; or, apart from all these, responses that the candidate could not score.
    """
    if labels.get("severity") == FAILED:
        return 0.0, 0.0, 0.0, 0.0, 1.0
    candidate, live = labels.get("severity") in severe, labels.get("live") in severe
    return 1.0, float(candidate and live), float(candidate and not live), float(live and not candidate), 0.0
