"""The dashboard about the promise: is it kept, since when not, on which traffic, and what it costs."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard as build

from tocsin.alerting.rates import CHANCE, ceiling_of
from tocsin.dashboards.panels import Query, board, heat, lines, number, rows, variable

ONE_SEVERITY = 'model=~"$model",severity=~"$severity"'
OF = 'model=~"$model"'
SCORED = OF + ',decision!="unscored"'
CELL = "model, severity"


def promise(runbooks: str) -> build.Dashboard:
    """The dashboard, with links to the runbooks at that address."""
    alarmed = f"sum by ({CELL}) (increase(tocsin_promised_alarms_total{{{ONE_SEVERITY}}}[$__rate_interval]))"
    judged = f"sum by (model) (increase(tocsin_promised_total{{{OF}}}[$__rate_interval]))"
    share = f"{alarmed} / on (model) group_left () ({judged} > 0)"
    alpha = f"max by ({CELL}) (tocsin_alpha{{{ONE_SEVERITY}}})"
    ceiling = ceiling_of(
        f"max by ({CELL}) (tocsin_expected_alarm_ratio{{{ONE_SEVERITY}}})",
        f"({judged} > 0)",
        f"min by (model) (tocsin_calibration_responses{{{OF}}})",
        "on (model) group_left ()",
        f"on ({CELL})",
    )
    evidence = f"max by ({CELL}) (tocsin_promise_log_evalue{{{ONE_SEVERITY}}})"
    all_alarmed = f"sum by ({CELL}) (increase(tocsin_promised_alarms_total{{{ONE_SEVERITY}}}[$__range]))"
    all_judged = f"sum by (model) (increase(tocsin_promised_total{{{OF}}}[$__range]))"
    overall = f"{all_alarmed} / on (model) group_left () ({all_judged} > 0)"
    return (
        board(
            "Tocsin: the promise", "tocsin-promise", "The false-alarm rate that was promised, and the one seen.",
            runbooks, variable("model", "model", "label_values(tocsin_alpha, model)"),
            variable("severity", "severity", 'label_values(tocsin_alpha{model=~"$model"}, severity)'),
        )
        .with_row(build.Row("Is it kept?"))
        .with_panel(number(
            "Evidence against the promise", "How far it lies above the limit from which TocsinPromiseBroken fires (e to"
            " this power). While promises are kept, it ever rises above 0 in one process of a hundred. Red: act.",
            "none", Query(f"{evidence} - on (model) group_left () max by (model) (tocsin_promise_log_limit{{{OF}}})",
                          "{{model}} {{severity}}"), red=0.0, span=8,
        ))
        .with_panel(number(
            "Alarms in this time", "The share of responses (or sessions) that alarmed, at a severity or a graver one.",
            "percentunit", Query(overall, "{{model}} {{severity}}"), span=8,
        ))
        .with_panel(number(
            "Alarm budget used in this time", "Alarms, as a share of those that the promise allows.",
            "percentunit", Query(f"({overall}) / {alpha}", "{{model}} {{severity}}"), red=2.0, span=8,
        ))
        .with_panel(lines(
            "Alarms against the promise", "Shares of responses that alarm; the promised rate; and how far chance takes "
            f"it once in {1 / CHANCE:,.0f} looks. Points are examples, with their traces.", "percentunit",
            Query(share, "{{model}} {{severity}}", exemplars=True), Query(alpha, "promised {{model}} {{severity}}"),
            Query(ceiling, "chance {{model}} {{severity}}"), span=24, dashed="/^(promised|chance)/",
        ))
        .with_panel(lines(
            "Evidence since start", "Rises when more alarm than promised, when far fewer do (quiet), or when scores "
            "drift; e to this power to 1.", "none", Query(evidence, "promise {{model}} {{severity}}"),
            Query(f"max by ({CELL}) (tocsin_quiet_log_evalue{{{ONE_SEVERITY}}})", "quiet {{model}} {{severity}}"),
            Query(f"max by (model) (tocsin_drift_log_evalue{{{OF}}})", "drift {{model}}"), least=None,
        ))
        .with_panel(rows(
            "What is promised", "By the bundles in use.",
            Query(alpha, "promised"), Query(overall, "seen"),
            Query(f"max by ({CELL}) (tocsin_expected_alarm_ratio{{{ONE_SEVERITY}}})", "expected"),
            Query(f"min by (model) (tocsin_calibration_responses{{{OF}}})", "calibrated on"),
            Query(f"time() - min by (model) (tocsin_bundle_calibrated_timestamp_seconds{{{OF}}})", "calibrated ago"),
            units={"promised": "percentunit", "seen": "percentunit", "expected": "percentunit", "calibrated ago": "s"},
            span=12,
        ))
        .with_row(build.Row("On which traffic?"))
        .with_panel(lines(
            "Evidence by detector, group and version", "That scores of a part have changed, adjusted for how many "
            "parts are watched; e to this power to 1. Above 4.6 with one model in the process: named.", "none",
            Query(f"max by (model, kind, cause) (tocsin_cause_log_evalue{{{OF}}})", "{{model}} {{kind}} {{cause}}"),
            least=None,
        ))
        .with_panel(heat(
            "P-values", "Even while the promise is kept; low ones in crowds are what alarms are made of.",
            Query(f"sum by (le) (increase(tocsin_pvalue_bucket{{{OF}}}[$__rate_interval]))", "{{le}}"), "none",
        ))
        .with_panel(lines(
            "Median p-value", "One half while the promise is kept. Lower: scores are higher than at calibration.",
            "none",
            Query(f"histogram_quantile(0.5, sum by (model, le) (rate(tocsin_pvalue_bucket{{{OF}}}[$__rate_interval])))",
                  "{{model}}"),
        ))
        .with_panel(lines(
            "Alarms by version", "A version that stands out points at a rollout.", "percentunit",
            Query(f"sum by (model, version) (rate(tocsin_alarms_total{{{OF}}}[$__rate_interval]))"
                  f" / (sum by (model, version) (rate(tocsin_responses_total{{{SCORED}}}[$__rate_interval])) > 0)",
                  "{{model}} {{version}}", exemplars=True),
        ))
        .with_panel(lines(
            "Scores by detector, 90%", "Each detector's own unit: what matters is where it moves.", "none",
            Query("histogram_quantile(0.9, sum by (model, detector, le) "
                  f"(rate(tocsin_score_bucket{{{OF}}}[$__rate_interval])))", "{{model}} {{detector}}"), least=None,
        ))
        .with_row(build.Row("What came of it?"))
        .with_panel(lines(
            "Responses by decision", "A second.", "reqps",
            Query(f"sum by (decision) (rate(tocsin_responses_total{{{OF}}}[$__rate_interval]))", "{{decision}}"),
        ))
        .with_panel(lines(
            "Done in enforce", "A second; refused: what could not be scored.", "reqps",
            Query(f"sum by (model, action) (rate(tocsin_actions_total{{{OF}}}[$__rate_interval]))",
                  "{{model}} {{action}}"),
        ))
    )  # fmt: skip
