"""The metrics of judged models: their names, types, labels and samples.

This is the only list of them. Everything that shows metrics (the registry of prometheus-client, text for a scrape,
OTLP) uses it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from prometheus_client.samples import Exemplar

P_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
SECONDS_BUCKETS = (5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 2.5e-2, 0.1, 1.0)
ROWS_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024)


class Family(NamedTuple):
    """A metric: its name without a counter's `_total`, its help text, and its labels."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    description: str
    labels: tuple[str, ...] = ()


class Buckets(NamedTuple):
    """The counts of a histogram: upper bounds as text without +Inf, cumulative counts with it, the sum of all values,
    exemplars by bucket, and for a native histogram counts by index (`histogram.NATIVE`).
    """

    bounds: Sequence[str]
    cumulative: Sequence[int]
    total: float
    exemplars: Mapping[int, Exemplar]
    native: Mapping[int, int] | None = None


class Sample(NamedTuple):
    """The value of one series."""

    family: Family
    labels: tuple[str, ...]
    value: float | Buckets
    exemplar: Exemplar | None = None


RESPONSES = Family(
    "tocsin_responses",
    "counter",
    "Responses seen, by what became of them.",
    ("model", "version", "method", "decision"),
)
ALARMS = Family("tocsin_alarms", "counter", "Responses that raised an alarm.", ("model", "version", "severity"))
PROMISED = Family(
    "tocsin_promised",
    "counter",
    "Responses judged, or sessions that ended, that the promise is about.",
    ("model",),
)
PROMISED_ALARMS = Family(
    "tocsin_promised_alarms",
    "counter",
    "Of these, how many alarmed at a severity or a more severe one.",
    ("model", "severity"),
)
OF_GROUP = Family(
    "tocsin_group_responses",
    "counter",
    "Responses judged by the promise of their group or class; empty: of all others together.",
    ("model", "group"),
)
ALARMS_OF_GROUP = Family(
    "tocsin_group_alarms",
    "counter",
    "Of these, how many alarmed at a severity or a more severe one.",
    ("model", "group", "severity"),
)
UNSCORED = Family("tocsin_unscored", "counter", "Responses that passed without a judgement.", ("model", "reason"))
SESSIONS = Family(
    "tocsin_sessions", "counter", "Sessions that ended, by their worst severity or none.", ("model", "severity")
)
KEYLESS = Family(
    "tocsin_keyless_calls",
    "counter",
    "Judged calls that named no session, or no group, where the promise asks for one.",
    ("model", "key"),
)
FEEDBACK = Family("tocsin_feedback", "counter", "Labels that came back, by what became of them.", ("model", "outcome"))
ACTIONS = Family("tocsin_actions", "counter", "What enforce did to calls; refused: failed closed.", ("model", "action"))
SHADOWS = Family(
    "tocsin_shadow_responses",
    "counter",
    "Responses that the candidate bundle judged too, by its severity and the live one's.",
    ("model", "severity", "live"),
)
PVALUE = Family("tocsin_pvalue", "histogram", "Joint p-values of judged responses.", ("model",))
SCORE = Family("tocsin_score", "histogram", "Detectors' scores.", ("model", "detector"))
SCORING = Family(
    "tocsin_scoring_seconds", "histogram", "Time from reading a batch of messages to its verdicts.", ("model",)
)
BATCHES = Family("tocsin_batch_responses", "histogram", "Responses of one model that were judged together.")
ADDED = Family("tocsin_added_seconds", "histogram", "Time that trailers waited for a verdict.")
ALPHA = Family("tocsin_alpha", "gauge", "The promised false-alarm rate.", ("model", "severity"))
EXPECTED = Family(
    "tocsin_expected_alarm_ratio",
    "gauge",
    "The rate of alarms that calibration leads one to expect on safe traffic.",
    ("model", "severity"),
)
EVIDENCE = Family(
    "tocsin_promise_log_evalue",
    "gauge",
    "Log of the evidence since start that the promised rate is exceeded; with `state` in all replicas together.",
    ("model", "severity"),
)
EVIDENCE_OF_GROUP = Family(
    "tocsin_group_log_evalue",
    "gauge",
    "Log of the evidence since start that the promise of a group or class is exceeded, adjusted for how many are "
    "watched; with `state` in all replicas together.",
    ("model", "group", "severity"),
)
LIMIT = Family(
    "tocsin_promise_log_limit",
    "gauge",
    "Log of the evidence above which the default rules say that a promise is broken, all models here counted.",
    ("model",),
)
QUIET = Family(
    "tocsin_quiet_log_evalue",
    "gauge",
    "Log of the evidence since start that far fewer alarm than calibration explains; with `state` in all replicas.",
    ("model", "severity"),
)
DRIFT = Family(
    "tocsin_drift_log_evalue",
    "gauge",
    "Log of the evidence since start that scores have drifted from calibration; with `state` in all replicas.",
    ("model",),
)
INPUTS = Family(
    "tocsin_inputs_log_evalue",
    "gauge",
    "Log of the evidence since start that inputs are other than at calibration, whatever scores do.",
    ("model",),
)
CAUSE = Family(
    "tocsin_cause_log_evalue",
    "gauge",
    "Log of the evidence since start that scores of a detector, group or version have changed, adjusted for how many "
    "are watched; with `state` in all replicas.",
    ("model", "kind", "cause"),
)
CHANGED = Family(
    "tocsin_change_timestamp_seconds",
    "gauge",
    "When the traffic probably changed, where evidence says that it did; else 0.",
    ("model",),
)
LEVEL = Family(
    "tocsin_level",
    "gauge",
    "The p-value at or below which responses alarm now, where that moves.",
    ("model", "severity"),
)
CARRIED = Family("tocsin_calibration_responses", "gauge", "Responses that carry the promise.", ("model",))
BUNDLE = Family("tocsin_bundle_info", "gauge", "The bundle in use; always 1.", ("model", "digest"))
CALIBRATED = Family(
    "tocsin_bundle_calibrated_timestamp_seconds", "gauge", "When the bundle was calibrated.", ("model",)
)

FAMILIES = (
    RESPONSES, ALARMS, PROMISED, PROMISED_ALARMS, OF_GROUP, ALARMS_OF_GROUP,
    UNSCORED, SESSIONS, KEYLESS, FEEDBACK, ACTIONS, SHADOWS, PVALUE, SCORE, SCORING, BATCHES, ADDED,
    ALPHA, EXPECTED, EVIDENCE, EVIDENCE_OF_GROUP, LIMIT, QUIET, DRIFT, INPUTS, CAUSE, CHANGED, LEVEL, CARRIED,
    BUNDLE, CALIBRATED,
)  # fmt: skip
