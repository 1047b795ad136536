"""Rates of alarms, and how far chance may take them from what calibration leads one to expect.

Of m safe responses, Beta-Binomial(m; n+1-k, k) alarm (`FalseAlarmLaw`): the share has the mean p = (n+1-k)/(n+1) and
the variance p(1-p)/m (n+1+m)/(n+2), the luck of the calibration set included. Beyond

    p + sqrt(2 L variance) + L (2 / (3 m) + 1 / (2 (n+2))),  L = log(1/CHANCE),

chance takes it at most about once in 1/CHANCE evaluations: Bernstein's bound with that variance, and besides the term
of the binomial part one for the luck of calibration, whose tail is that of a gamma variable where few alarms were seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log

from tocsin.alerting.rule import Recording
from tocsin.alerting.watched import Watched, Wishes, matching

WINDOWS = ("5m", "30m", "1h", "6h")
CHANCE = 1e-6
ALARM = "alarm"  # the label of a promise's severity in what is recorded: `severity` is that of alerts


def ceiling(expected: float, carried: float, responses: float) -> float:
    """The share of alarms that chance exceeds at most about once in 1/CHANCE times, as the rules compute it."""
    variance = expected * (1 - expected) / responses * (carried + 1 + responses) / (carried + 2)
    luck = log(1 / CHANCE)
    return float(expected + (2 * luck * variance) ** 0.5 + luck * (2 / (3 * responses) + 1 / (2 * (carried + 2))))


def rates(models: Sequence[Watched], wishes: Wishes) -> list[Recording]:
    """The recording rules: what is promised and expected, and by window the judged, their alarms and the ceiling."""
    both = wishes.labels("model", ALARM)
    rules = [
        Recording("tocsin:alpha", _by_alarm(f"max by ({wishes.labels('model', 'severity')}) (tocsin_alpha)")),
        Recording(
            "tocsin:expected_alarm_ratio",
            _by_alarm(f"max by ({wishes.labels('model', 'severity')}) (tocsin_expected_alarm_ratio)"),
        ),
        Recording("tocsin:calibrated", f"min by ({wishes.labels('model')}) (tocsin_calibration_responses)"),
        Recording(
            "tocsin:promise_log_evalue",
            _by_alarm(f"max by ({wishes.labels('model', 'severity')}) (max_over_time(tocsin_promise_log_evalue[5m]))"),
        ),
    ]
    kinds = dict.fromkeys((model.severities, model.sessions) for model in models)
    for window in WINDOWS:
        for severities, sessions in kinds:
            alike = [model for model in models if (model.severities, model.sessions) == (severities, sessions)]
            rules += _counted(alike, models, severities, sessions, window, wishes)
        joined = f"on ({wishes.labels('model')}) group_left ()"
        rules.append(
            Recording(
                f"tocsin:alarm_ratio:{window}",
                f"tocsin:alarmed:{window} / {joined} (tocsin:judged:{window} > 0)",
            )
        )
        p, m, n = "tocsin:expected_alarm_ratio", f"(tocsin:judged:{window} > 0)", "tocsin:calibrated"
        variance = f"{p} * (1 - {p})\n  * {joined}\n    (({n} + 1 + {m}) / ({n} + 2) / {m})"
        rules.append(Recording(f"tocsin:alarm_ratio_variance:{window}", variance))
        rules.append(
            Recording(
                f"tocsin:alarm_ratio_ceiling:{window}",
                f"{p}\n  + on ({both}) sqrt({2 * log(1 / CHANCE):.6g} * tocsin:alarm_ratio_variance:{window})"
                f"\n  + {joined} ({2 * log(1 / CHANCE) / 3:.6g} / {m} + {log(1 / CHANCE) / 2:.6g} / ({n} + 2))",
            )
        )
    return rules


def _counted(
    alike: Sequence[Watched],
    every: Sequence[Watched],
    severities: Sequence[str],
    sessions: bool,
    window: str,
    wishes: Wishes,
) -> list[Recording]:
    """How many were judged, and how many alarmed at a severity or a graver one, of models that are alike."""
    only = matching(alike, every)
    if sessions:
        of, alarms = _selector("tocsin_sessions_total", only), "tocsin_sessions_total"
    else:
        of, alarms = _selector("tocsin_responses_total", 'decision!="unscored"', only), "tocsin_alarms_total"
    model = wishes.labels("model")
    found = [Recording(f"tocsin:judged:{window}", f"sum by ({model}) (increase({of}[{window}]))")]
    for at, severity in enumerate(severities):
        graver = f'severity=~"{"|".join(severities[: at + 1])}"'
        expr = f"sum by ({model}) (increase({_selector(alarms, graver, only)}[{window}]))"
        found.append(Recording(f"tocsin:alarmed:{window}", expr, {ALARM: severity}))
    return found


def _selector(metric: str, *matchers: str) -> str:
    told = ",".join(filter(None, matchers))
    return f"{metric}{{{told}}}" if told else metric


def _by_alarm(expr: str) -> str:
    """The same under the label `alarm`."""
    return f'max without (severity) (label_replace({expr}, "{ALARM}", "$1", "severity", "(.+)"))'
