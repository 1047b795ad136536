"""Alerts about the promise: broken, its budget burning, too quiet, drift, an old calibration, a candidate that
disagrees.
"""

from __future__ import annotations

from collections.abc import Sequence

from tocsin.alerting.limits import page_limits
from tocsin.alerting.rates import SEVERITY_LABEL, by_alarm, ceiling_of, rates
from tocsin.alerting.rule import Alert, Group, RecordingRule
from tocsin.alerting.watched import RuleOptions, WatchedModel, matching

FAST_BURN, SLOW_BURN = 14.4, 3.0  # times the promised rate: a month's alarms in 50 hours, and in ten days
MAX_RATE = 0.5  # a rate that is too high whatever was promised


def promise(models: Sequence[WatchedModel], options: RuleOptions) -> Group:
    """The alerts about the promise, after the rates that they use: the rules of a group are evaluated in order."""
    fixed = [model for model in models if model.fixed]
    alerts: list[RecordingRule | Alert] = [*rates(options)]
    if fixed:
        alerts += [_broken(fixed, models, options), *_burning(fixed, models, options), _quiet(fixed, models, options)]
    alerts += [_drift(models, options), _inputs(models, options), _cause(models, options), _stale(options)]
    if any(model.shadowed for model in models):
        alerts.append(_disagrees([model for model in models if model.shadowed], options))
    return Group("tocsin.promise", alerts)


def _broken(fixed: Sequence[WatchedModel], every: Sequence[WatchedModel], options: RuleOptions) -> Alert:
    """Evidence over 1/delta. By Ville's inequality, chance ever causes that with probability at most delta."""
    parts, sure, limits = [], [], page_limits(every, options.delta, options.run_length)
    windows = [model for model in fixed if not model.run_length]
    if windows:
        parts.append(_exceeds_limit(limits.windows, windows, every))
        sure.append(
            f"While the promise is kept, any alert of this kind ever fires with probability at most {options.delta:g} "
            "a process."
        )
    lengths = [model for model in fixed if model.run_length]
    if lengths:
        parts.append(_exceeds_limit(limits.run_length, lengths, every))
        sure.append(
            f"Where evidence is configured as run_length, chance does this once in {options.run_length:,.0f} responses "
            "on average at most, those of all models counted."
        )
    shares = ""
    if options.texts_query:
        ratio, alpha = (options.lookup(name, SEVERITY_LABEL) for name in ("tocsin:alarm_ratio:5m", "tocsin:alpha"))
        shares = f"{ratio} in five minutes, promised {alpha}; "
    return Alert(
        "TocsinPromiseBroken",
        "critical",
        "\nor ".join(parts),
        f"{options.subject}: {{{{ $labels.{SEVERITY_LABEL} }}}} alarms now exceed what was promised ({shares}"
        'evidence e^{{ $value | printf "%.1f" }} to 1)',
        "The traffic is not like the calibration traffic, or the model has changed: the evidence against the promise "
        f'is e^{{{{ $value | printf "%.1f" }}}} to 1. {cause_template(options)}{" ".join(sure)}',
        "promise-broken",
    )


def _exceeds_limit(limit: float, some: Sequence[WatchedModel], every: Sequence[WatchedModel]) -> str:
    """The condition that the evidence against `some` of `every` model exceeds a limit of log e-values."""
    return f"tocsin:promise_log_evalue{_in_braces(matching(some, every))} > {limit:.4f}"


def _burning(fixed: Sequence[WatchedModel], every: Sequence[WatchedModel], options: RuleOptions) -> list[Alert]:
    """The share of alarms is a multiple of the promised rate, in a long window and still in a short one."""
    rules = []
    only = _in_braces(matching(fixed, every))
    promised = f", promised {options.lookup('tocsin:alpha', SEVERITY_LABEL)}" if options.texts_query else ""
    for name, urgency, times, short, long in (
        ("TocsinAlarmBudgetBurnsFast", "critical", FAST_BURN, "5m", "1h"),
        ("TocsinAlarmBudgetBurnsSlowly", "warning", SLOW_BURN, "30m", "6h"),
    ):
        limit = f"clamp_max({times:g} * tocsin:alpha, {MAX_RATE:g})"
        parts = [
            f"tocsin:alarm_ratio:{window}{only} > {limit}\nand tocsin:alarm_ratio:{window} > "
            f"tocsin:alarm_ratio_ceiling:{window}"
            for window in (long, short)
        ]
        rules.append(
            Alert(
                name,
                urgency,  # type: ignore[arg-type]
                "\nand ".join(parts),
                f"{options.subject}: {{{{ $value | humanizePercentage }}}} of responses in {long} raise "
                f"{{{{ $labels.{SEVERITY_LABEL} }}}} alarms{promised}",
                f"The alarm budget is used up at {times:g} times the promised rate or faster (at {MAX_RATE:.0%} in any "
                f"case), in the last {long} and still in the last {short}, by more than chance does once in a million "
                "times.",
                "alarm-budget",
            )
        )
    return rules


def _quiet(fixed: Sequence[WatchedModel], every: Sequence[WatchedModel], options: RuleOptions) -> Alert:
    """Far fewer alarms than calibration explains: the promise holds, but something has changed."""
    limit = page_limits(every, options.delta).quiet
    peak = f"max_over_time(tocsin_quiet_log_evalue{_in_braces(matching(fixed, every))}[5m])"
    return Alert(
        "TocsinTooQuiet",
        "info",
        by_alarm(f"max by ({options.labels('model', 'severity')}) ({peak})") + f" > {limit:.4f}",
        f"{options.subject}: far fewer {{{{ $labels.{SEVERITY_LABEL} }}}} alarms than calibration lets expect "
        '(evidence e^{{ $value | printf "%.1f" }} to 1)',
        "The promise is kept, but traffic has become easier or the model has changed, and alarms may now miss what "
        "they were to catch: look, and calibrate anew. " + _false_alert(options),
        "too-quiet",
        lasting="1h",
    )


def _drift(models: Sequence[WatchedModel], options: RuleOptions) -> Alert:
    """Evidence that scores are distributed otherwise than at calibration."""
    limit = page_limits(models, options.delta).drift
    return Alert(
        "TocsinDrift",
        "warning",
        f"max by ({options.labels('model')}) (max_over_time(tocsin_drift_log_evalue[5m])) > {limit:.4f}",
        options.subject + ': scores have drifted from calibration (evidence e^{{ $value | printf "%.1f" }} to 1)',
        "Scores are distributed otherwise than when the bundle was calibrated, upwards or downwards; alarms may still "
        f"be within what was promised. {cause_template(options)}{_false_alert(options)}",
        "drift",
    )


def _inputs(models: Sequence[WatchedModel], options: RuleOptions) -> Alert:
    """Evidence that inputs are distributed otherwise than at calibration."""
    limit = page_limits(models, options.delta).drift
    peak = f"max by ({options.labels('model')}) (max_over_time(tocsin_inputs_log_evalue[5m]))"
    return Alert(
        "TocsinInputsChanged",
        "info",
        f"{peak} > {limit:.4f}",
        options.subject + ': inputs are other than at calibration (evidence e^{{ $value | printf "%.1f" }} to 1)',
        "What the model shows of its inputs is distributed otherwise than when the bundle was calibrated. While "
        "TocsinDrift and TocsinPromiseBroken are silent, nothing says that alarms are other than promised. "
        + _false_alert(options),
        "inputs-changed",
    )


def _false_alert(options: RuleOptions) -> str:
    """How probable an alert of this kind is by chance alone, as one sentence."""
    return (
        "On traffic like the calibration traffic, any alert of this kind ever fires with probability at most "
        f"{options.delta:g} a process."
    )


def cause_template(options: RuleOptions) -> str:
    """The part of the traffic with the most evidence of a change, and since when, as a template of annotations."""
    if not options.texts_query:
        return ""
    matchers = ",".join(f"{label}='%s'" for label in [*options.by, "model"])
    values = " ".join(f"$labels.{label}" for label in [*options.by, "model"])
    most = f'{{{{ with printf "topk(1, tocsin:cause_log_evalue{{{matchers}}} > 0)" {values} | query }}}}'
    when = f'{{{{ with printf "max(tocsin_change_timestamp_seconds{{{matchers}}}) > 0" {values} | query }}}}'
    return (
        most
        + "Most evidence points at {{ . | first | label `kind` }} '{{ . | first | label `cause` }}' "
        + "(e^{{ . | first | value | printf `%.1f` }}). {{ end }}"
        + when
        + "It probably began at {{ . | first | value | toTime }}. {{ end }}"
    )


def _cause(models: Sequence[WatchedModel], options: RuleOptions) -> Alert:
    """Closed testing has adjusted the evidence for how many parts of a model's traffic are watched: models remain."""
    limit = page_limits(models, options.delta).drift
    return Alert(
        "TocsinCause",
        "info",
        f"tocsin:cause_log_evalue > {limit:.4f}",
        options.subject
        + ": scores of {{ $labels.kind }} '{{ $labels.cause }}' have changed "
        + '(evidence e^{{ $value | printf "%.1f" }} to 1)',
        "This part of the traffic is not as at calibration, whatever the others are. On traffic like the calibration "
        f"traffic, any alert of this kind ever names a part that has not changed with probability at most "
        f"{options.delta:g} a process.",
        "cause",
    )


def _stale(options: RuleOptions) -> Alert:
    """The calibration is older than `max_age`."""
    age = options.max_age.total_seconds()
    calibrated = f"min by ({options.labels('model')}) (tocsin_bundle_calibrated_timestamp_seconds)"
    return Alert(
        "TocsinCalibrationStale",
        "warning",
        f"time() - {calibrated} > {age:.0f}",
        options.subject + ": calibrated {{ $value | humanizeDuration }} ago",
        f"The promise is about traffic like that of the calibration. It is older than {options.max_age.days} days, "
        "which somebody has set as the limit.",
        "calibration-stale",
    )


def _disagrees(shadowed: Sequence[WatchedModel], options: RuleOptions) -> Alert:
    """Live and candidate bundle disagree on more responses than two promises of the mildest alpha allow."""
    by = options.labels("model")
    severities = dict.fromkeys(["none", *(severity for model in shadowed for severity in model.severities)])
    every = f"sum by ({by}) (increase(tocsin_shadow_responses_total[1h]))"
    alike = " or ".join(f'increase(tocsin_shadow_responses_total{{severity="{s}",live="{s}"}}[1h])' for s in severities)
    carried = f"min by ({by}) (tocsin_calibration_responses)"
    if shares := [model.candidate_carried for model in shadowed if model.candidate_carried is not None]:
        carried = f"clamp_max({carried}, {min(shares)})"
    ceiling = ceiling_of(f"max by ({by}) (tocsin_alpha)", f"({every} > 0)", f"({carried})", "", "")
    return Alert(
        "TocsinCandidateDisagrees",
        "warning",
        f"1 - sum by ({by}) ({alike}) / ({every} > 0)\n> 2 * ({ceiling})",
        options.subject + ": the candidate bundle judges {{ $value | humanizePercentage }} of responses otherwise",
        "Both bundles promise at most alpha false alarms, so on safe traffic they may differ on twice that, and on as "
        "much more as chance and the luck of two calibrations allow. They differ on more, or the candidate fails: look "
        "before you make it the live one.",
        "candidate-disagrees",
    )


def _in_braces(matcher: str) -> str:
    return f"{{{matcher}}}" if matcher else ""
