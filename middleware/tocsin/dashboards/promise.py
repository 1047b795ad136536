"""The dashboard about the promise: is it kept, since when not, on which traffic, and what it costs."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard as build

from tocsin.alerting.rates import CHANCE, ceiling_of
from tocsin.dashboards.panels import Panel, Query, board, heat, lines, number, rows, variable, with_rows

ONE_SEVERITY = 'model=~"$model",severity=~"$severity"'
OF = 'model=~"$model"'
SCORED = OF + ',decision!="unscored"'
CELL = "model, severity"

# PromQL, by model and severity.
_ALARMED = f"sum by ({CELL}) (increase(tocsin_promised_alarms_total{{{ONE_SEVERITY}}}[$__rate_interval]))"
_JUDGED = f"sum by (model) (increase(tocsin_promised_total{{{OF}}}[$__rate_interval]))"
_SHARE = f"{_ALARMED} / on (model) group_left () ({_JUDGED} > 0)"
_ALPHA = f"max by ({CELL}) (tocsin_alpha{{{ONE_SEVERITY}}})"
_CEILING = ceiling_of(
    f"max by ({CELL}) (tocsin_expected_alarm_ratio{{{ONE_SEVERITY}}})",
    f"({_JUDGED} > 0)",
    f"min by (model) (tocsin_calibration_responses{{{OF}}})",
    "on (model) group_left ()",
    f"on ({CELL})",
)
_EVIDENCE = f"max by ({CELL}) (tocsin_promise_log_evalue{{{ONE_SEVERITY}}})"
_ALL_ALARMED = f"sum by ({CELL}) (increase(tocsin_promised_alarms_total{{{ONE_SEVERITY}}}[$__range]))"
_ALL_JUDGED = f"sum by (model) (increase(tocsin_promised_total{{{OF}}}[$__range]))"
_OVERALL = f"{_ALL_ALARMED} / on (model) group_left () ({_ALL_JUDGED} > 0)"


def promise(runbooks: str) -> build.Dashboard:
    """The dashboard, with links to the runbooks at that address."""
    dashboard = board(
        "Tocsin: the promise", "tocsin-promise", "The false-alarm rate that was promised, and the one seen.",
        runbooks, variable("model", "model", "label_values(tocsin_alpha, model)"),
        variable("severity", "severity", 'label_values(tocsin_alpha{model=~"$model"}, severity)'),
    )  # fmt: skip
    return with_rows(
        dashboard,
        {
            "Is it kept?": _promise_panels(),
            "On which traffic?": _traffic_panels(),
            "What came of it?": _outcome_panels(),
        },
    )


def _promise_panels() -> list[Panel]:
    """Whether the promise is kept."""
    return [
        number(
            "Evidence against the promise", "How far it lies above the limit from which TocsinPromiseBroken fires (e to"
            " this power). While promises are kept, it ever rises above 0 in one process of a hundred. Red: act.",
            "none", Query(f"{_EVIDENCE} - on (model) group_left () max by (model) (tocsin_promise_log_limit{{{OF}}})",
                          "{{model}} {{severity}}"), red=0.0, span=8,
        ),
        number(
            "Alarms in this time", "The share of responses (or sessions) that alarmed, at a severity or a graver one.",
            "percentunit", Query(_OVERALL, "{{model}} {{severity}}"), span=8,
        ),
        number(
            "Alarm budget used in this time", "Alarms, as a share of those that the promise allows.",
            "percentunit", Query(f"({_OVERALL}) / {_ALPHA}", "{{model}} {{severity}}"), red=2.0, span=8,
        ),
        lines(
            "Alarms against the promise", "Shares of responses that alarm; the promised rate; and how far chance takes "
            f"it once in {1 / CHANCE:,.0f} looks. Points are examples, with their traces.", "percentunit",
            Query(_SHARE, "{{model}} {{severity}}", exemplars=True), Query(_ALPHA, "promised {{model}} {{severity}}"),
            Query(_CEILING, "chance {{model}} {{severity}}"), span=24, dashed="/^(promised|chance)/",
        ),
        lines(
            "Evidence since start", "Rises when more alarm than promised, when far fewer do (quiet), or when scores "
            "drift; e to this power to 1.", "none", Query(_EVIDENCE, "promise {{model}} {{severity}}"),
            Query(f"max by ({CELL}) (tocsin_quiet_log_evalue{{{ONE_SEVERITY}}})", "quiet {{model}} {{severity}}"),
            Query(f"max by (model) (tocsin_drift_log_evalue{{{OF}}})", "drift {{model}}"), least=None,
        ),
        rows(
            "What is promised", "By the bundles in use.",
            Query(_ALPHA, "promised"), Query(_OVERALL, "seen"),
            Query(f"max by ({CELL}) (tocsin_expected_alarm_ratio{{{ONE_SEVERITY}}})", "expected"),
            Query(f"min by (model) (tocsin_calibration_responses{{{OF}}})", "calibrated on"),
            Query(f"time() - min by (model) (tocsin_bundle_calibrated_timestamp_seconds{{{OF}}})", "calibrated ago"),
            units={"promised": "percentunit", "seen": "percentunit", "expected": "percentunit", "calibrated ago": "s"},
            span=12,
        ),
    ]  # fmt: skip


def _traffic_panels() -> list[Panel]:
    """Which traffic has changed."""
    return [
        lines(
            "Evidence by detector, group and version", "That scores of a part have changed, adjusted for how many "
            "parts are watched; e to this power to 1. Above 4.6 with one model in the process: named.", "none",
            Query(f"max by (model, kind, cause) (tocsin_cause_log_evalue{{{OF}}})", "{{model}} {{kind}} {{cause}}"),
            least=None,
        ),
        heat(
            "P-values", "Even while the promise is kept; low ones in crowds are what alarms are made of.",
            Query(f"sum by (le) (increase(tocsin_pvalue_bucket{{{OF}}}[$__rate_interval]))", "{{le}}"), "none",
        ),
        lines(
            "Median p-value", "One half while the promise is kept. Lower: scores are higher than at calibration.",
            "none",
            Query(f"histogram_quantile(0.5, sum by (model, le) (rate(tocsin_pvalue_bucket{{{OF}}}[$__rate_interval])))",
                  "{{model}}"),
        ),
        lines(
            "Alarms by version", "A version that stands out points at a rollout.", "percentunit",
            Query(f"sum by (model, version) (rate(tocsin_alarms_total{{{OF}}}[$__rate_interval]))"
                  f" / (sum by (model, version) (rate(tocsin_responses_total{{{SCORED}}}[$__rate_interval])) > 0)",
                  "{{model}} {{version}}", exemplars=True),
        ),
        lines(
            "Scores by detector, 90%", "Each detector's own unit: what matters is where it moves.", "none",
            Query("histogram_quantile(0.9, sum by (model, detector, le) "
                  f"(rate(tocsin_score_bucket{{{OF}}}[$__rate_interval])))", "{{model}} {{detector}}"), least=None,
        ),
    ]  # fmt: skip


def _outcome_panels() -> list[Panel]:
    """What was done about alarms."""
    return [
        lines(
            "Responses by decision", "A second.", "reqps",
            Query(f"sum by (decision) (rate(tocsin_responses_total{{{OF}}}[$__rate_interval]))", "{{decision}}"),
        ),
        lines(
            "Done in enforce", "A second; refused: what could not be scored.", "reqps",
            Query(f"sum by (model, action) (rate(tocsin_actions_total{{{OF}}}[$__rate_interval]))",
                  "{{model}} {{action}}"),
        ),
    ]  # fmt: skip
