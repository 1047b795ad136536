"""Rates of alarms, and how far chance may take them from what calibration leads one to expect.

Of m safe responses, Beta-Binomial(m; n+1-k, k) alarm (`FalseAlarmLaw`): the share has the mean p = (n+1-k)/(n+1) and
the variance p(1-p)/m (n+1+m)/(n+2), the luck of the calibration set included. Beyond

    p + sqrt(2 L variance) + L (2 / (3 m) + 1 / (2 (n+2))),  L = log(1/CHANCE),

chance takes it at most about once in 1/CHANCE evaluations: Bernstein's bound with that variance, and besides the term
of the binomial part one for the luck of calibration, whose tail is that of a gamma variable where few alarms were seen.
"""

from __future__ import annotations

from math import log

from tocsin.alerting.rule import RecordingRule
from tocsin.alerting.watched import RuleOptions

WINDOWS = ("5m", "30m", "1h", "6h")
CHANCE = 1e-6
SEVERITY_LABEL = "alarm"  # the label of a promise's severity in what is recorded: `severity` is that of alerts


def ceiling(expected: float, carried: float, responses: float) -> float:
    """The share of alarms that chance exceeds at most about once in 1/CHANCE times, as the rules compute it."""
    variance = expected * (1 - expected) / responses * (carried + 1 + responses) / (carried + 2)
    luck = log(1 / CHANCE)
    return float(expected + (2 * luck * variance) ** 0.5 + luck * (2 / (3 * responses) + 1 / (2 * (carried + 2))))


def variance_of(expected: str, responses: str, carried: str, joined: str) -> str:
    """The variance of the share as PromQL; `joined` matches the labels of `expected` with those of the other two."""
    counts = f"(({carried} + 1 + {responses}) / ({carried} + 2) / {responses})"
    return f"{expected} * (1 - {expected})\n  * {joined}\n    {counts}"


def ceiling_of(expected: str, responses: str, carried: str, joined: str, alike: str, variance: str = "") -> str:
    """`ceiling` as PromQL; `alike` matches the labels of `expected` with those of the `variance`."""
    variance, luck = variance or f"({variance_of(expected, responses, carried, joined)})", log(1 / CHANCE)
    return (
        f"{expected}\n  + {alike} sqrt({2 * luck:.6g} * {variance})"
        f"\n  + {joined} ({2 * luck / 3:.6g} / {responses} + {luck / 2:.6g} / ({carried} + 2))"
    )


def rates(options: RuleOptions) -> list[RecordingRule]:
    """The recording rules: what is promised and expected, and by window the judged, their alarms and the ceiling."""
    both = options.labels("model", SEVERITY_LABEL)
    rules = [
        RecordingRule("tocsin:alpha", by_alarm(f"max by ({options.labels('model', 'severity')}) (tocsin_alpha)")),
        RecordingRule(
            "tocsin:expected_alarm_ratio",
            by_alarm(f"max by ({options.labels('model', 'severity')}) (tocsin_expected_alarm_ratio)"),
        ),
        RecordingRule("tocsin:calibrated", f"min by ({options.labels('model')}) (tocsin_calibration_responses)"),
        RecordingRule(
            "tocsin:promise_log_evalue",
            by_alarm(f"max by ({options.labels('model', 'severity')}) (max_over_time(tocsin_promise_log_evalue[5m]))"),
        ),
    ]
    cause = f"max by ({options.labels('model', 'kind', 'cause')}) (max_over_time(tocsin_cause_log_evalue[5m]))"
    rules.append(RecordingRule("tocsin:cause_log_evalue", cause))
    for window in WINDOWS:
        judged = f"sum by ({options.labels('model')}) (increase(tocsin_promised_total[{window}]))"
        alarmed = f"sum by ({options.labels('model', 'severity')}) (increase(tocsin_promised_alarms_total[{window}]))"
        rules.append(RecordingRule(f"tocsin:judged:{window}", judged))
        rules.append(RecordingRule(f"tocsin:alarmed:{window}", by_alarm(alarmed)))
        joined = f"on ({options.labels('model')}) group_left ()"
        rules.append(
            RecordingRule(
                f"tocsin:alarm_ratio:{window}",
                f"tocsin:alarmed:{window} / {joined} (tocsin:judged:{window} > 0)",
            )
        )
        p, m, n = "tocsin:expected_alarm_ratio", f"(tocsin:judged:{window} > 0)", "tocsin:calibrated"
        rules.append(RecordingRule(f"tocsin:alarm_ratio_variance:{window}", variance_of(p, m, n, joined)))
        rules.append(
            RecordingRule(
                f"tocsin:alarm_ratio_ceiling:{window}",
                ceiling_of(p, m, n, joined, f"on ({both})", f"tocsin:alarm_ratio_variance:{window}"),
            )
        )
    return rules


def by_alarm(expr: str) -> str:
    """The expression under the label `alarm`."""
    return f'max without (severity) (label_replace({expr}, "{SEVERITY_LABEL}", "$1", "severity", "(.+)"))'
