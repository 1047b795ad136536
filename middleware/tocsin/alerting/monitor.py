"""Alerts about the monitor itself: whether it runs, receives traffic, keeps up, and delivers."""

from __future__ import annotations

from collections.abc import Sequence

from tocsin.alerting.rule import Alert, Group
from tocsin.alerting.watched import RuleOptions, WatchedModel
from tocsin.configuration.config import Config

MAX_UNSCORED_SHARE = 0.5  # the share of unscored responses from which nothing is watched any more
ABSENCE_LOOKBACK = "1d"  # how long a deployment that is gone is remembered, and alerted on
MIN_RESPONSES = 10  # responses in five minutes below which a share of them says nothing


def monitor(models: Sequence[WatchedModel], config: Config, options: RuleOptions) -> Group:
    """The alerts of the monitor."""
    alerts = [_absent_deployments(models, options), *_unscored(options), _unguarded(options)]
    if options.upstream_rate:
        alerts.append(_bypassed_relay(options))
    served = [model for model in models if model.name in config.models]  # opinions are judged when nobody waits
    budgets = [config.budget(model.name, shares_sessions=model.shares_sessions) for model in served]
    budget = max(budgets, default=config.scoring_budget)
    alerts += [
        _slow_scoring(budget.total_seconds(), options),
        _unreachable(options),
        _failed_reloads(options),
        _dying_workers(options),
        _disbelieved_judges(options),
    ]
    return Group("tocsin.monitor", alerts)


def _absent_deployments(models: Sequence[WatchedModel], options: RuleOptions) -> Alert:
    """`absent` knows only the labels in its query. The deployments are known from those that were there before; where
    there was none, the alert has the model's name alone.
    """
    parts = []
    for model in models:
        series = f'tocsin_bundle_info{{model="{model.name}"}}'
        if options.by:
            by = options.labels("model")
            before = f"group by ({by}) (last_over_time({series}[{ABSENCE_LOOKBACK}]))"
            parts.append(f"({before} unless group by ({by}) ({series}))\nor on (model) absent({series})")
        else:
            parts.append(f"absent({series})")
    return Alert(
        "TocsinGone",
        "critical",
        "\nor ".join(parts),
        options.subject + ": no Tocsin reports that it guards this model",
        "Prometheus has no series of it: no Tocsin is running with this model, or none is scraped.",
        "gone",
        lasting="5m",
    )


def _unscored(options: RuleOptions) -> list[Alert]:
    """Responses that pass without a judgement, at two shares of all. The first of each session has no previous signals:
    where these are configured that is no fault, and counts towards the larger share alone.
    """
    by = options.labels("model")
    judged = f'sum by ({by}) (increase(tocsin_responses_total{{decision!="unscored"}}[5m]))'

    def share(but_for: str) -> str:
        missed = f"sum by ({by}) (increase(tocsin_unscored_total{{reason{but_for}}}[5m]))"
        return f"{missed} / (({judged} or 0 * {missed}) + {missed} > {MIN_RESPONSES})"

    of_all, of_others = share('!="no_bundle"'), share('!~"no_bundle|no_previous"')
    summary = options.subject + ": {{ $value | humanizePercentage }} of responses pass without a judgement"
    return [
        Alert(
            "TocsinBlind",
            "critical",
            f"{of_all} > {MAX_UNSCORED_SHARE:g}",
            summary,
            "Nothing is promised about responses that are not scored. The reasons are in tocsin_unscored_total.",
            "unscored",
            lasting="2m",
        ),
        Alert(
            "TocsinUnscored",
            "warning",
            f"{of_others} > {options.unscored:g}",
            summary,
            f"More than {options.unscored:.0%} of responses in five minutes. The reasons are in tocsin_unscored_total.",
            "unscored",
            lasting="10m",
        ),
    ]


def _unguarded(options: RuleOptions) -> Alert:
    """Calls pass, and none of them is of a guarded method."""
    by = options.grouping
    guarded, other = (f'sum{by} (increase(tocsin_relay_calls_total{{guarded="{g}"}}[30m]))' for g in ("true", "false"))
    return Alert(
        "TocsinSeesOtherCallsOnly",
        "warning",
        f"{other} > 100 unless {guarded} > 0",
        options.deployment()
        + "{{ $value | humanize }} calls in half an hour passed, and not one of them was of a guarded method",
        "Calls arrive, but of methods that no configured protocol knows. Health checks alone look like this too.",
        "no-traffic",
        lasting="30m",
    )


def _bypassed_relay(options: RuleOptions) -> Alert:
    """`upstream_rate` may have lost the labels of deployments; then it is compared with the calls of all of them."""
    calls = 'rate(tocsin_relay_calls_total{guarded="true"}[10m])'
    answers, traffic = f"({options.upstream_rate})", f"sum ({calls}) > 0"
    if options.by:
        by = f" by ({options.labels()})"
        answers, traffic = f"sum{by} ({options.upstream_rate})", f"(sum{by} ({calls}) > 0 or {traffic})"
    return Alert(
        "TocsinBypassed",
        "critical",
        f"{answers} > 0 unless {traffic}",
        options.deployment()
        + "the model server answers {{ $value | humanize }} requests a second, and none of them came through Tocsin",
        "The model server has traffic, and Tocsin has none: callers reach it by another way.",
        "no-traffic",
        lasting="10m",
    )


def _slow_scoring(budget: float, options: RuleOptions) -> Alert:
    """One response in a hundred waits longer for its verdict than the scoring budget, in seconds."""
    by = options.labels("le")
    return Alert(
        "TocsinSlow",
        "warning",
        f"histogram_quantile(0.99, sum by ({by}) (rate(tocsin_added_seconds_bucket[5m]))) > {budget:g}",
        options.deployment() + "judging adds {{ $value | humanizeDuration }} to one response in a hundred",
        f"The scoring budget is {budget * 1e3:g} ms; responses that wait longer pass as late.",
        "slow",
        lasting="10m",
    )


def _unreachable(options: RuleOptions) -> Alert:
    """Connections to the model server fail."""
    by = options.grouping
    return Alert(
        "TocsinUpstreamUnreachable",
        "warning",
        f"sum{by} (increase(tocsin_relay_upstream_failures_total[5m])) > 0",
        options.deployment() + "{{ $value | humanize }} connections to the model server failed in five minutes",
        "Callers get UNAVAILABLE, as they would without Tocsin.",
        "upstream-unreachable",
        lasting="5m",
    )


def _failed_reloads(options: RuleOptions) -> Alert:
    """A reload failed within the last hour, and none succeeded."""
    by = options.grouping
    failed, done = (f'max{by} (increase(tocsin_reloads_total{{outcome="{o}"}}[1h]))' for o in ("failed", "done"))
    return Alert(
        "TocsinReloadFailed",
        "warning",
        f"{failed} > 0 unless {done} > 0",
        options.deployment() + "a new configuration could not be used; the old one stays in force",
        "The reason is in the log, and in the answer of `tocsin reload`.",
        "reload-failed",
    )


def _dying_workers(options: RuleOptions) -> Alert:
    """Workers die repeatedly."""
    by = options.grouping
    return Alert(
        "TocsinWorkersDie",
        "warning",
        f"sum{by} (increase(tocsin_worker_restarts_total[30m])) > 2",
        options.deployment() + "{{ $value | humanize }} workers died in half an hour and were started again",
        "Calls in flight on them were lost.",
        "workers-die",
    )


def _disbelieved_judges(options: RuleOptions) -> Alert:
    by = options.labels("model", "opinion")
    return Alert(
        "TocsinJudgesDisagree",
        "warning",
        f'sum by ({by}) (increase(tocsin_second_opinions_total{{severity="disbelieved"}}[30m])) > 0',
        options.subject + ": judges disagree about opinion {{ $labels.opinion }}, so its scores are not judged",
        "The agreement of the judges' scores is below `at_least`; tocsin_judge_agreement has Krippendorff's alpha.",
        "judges-disagree",
        lasting="5m",
    )
