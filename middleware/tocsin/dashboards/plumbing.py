"""The dashboard about the monitor: does it see everything, does it keep up, and what does it cost."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard as build

from tocsin.dashboards.panels import Query, board, lines, number, variable

OF = 'model=~"$model"'
AT = 'instance=~"$instance"'


def plumbing(runbooks: str) -> build.Dashboard:
    """The dashboard, with links to the runbooks at that address."""
    unscored = f'sum(rate(tocsin_responses_total{{{OF},{AT},decision="unscored"}}[$__rate_interval]))'
    every = f"sum(rate(tocsin_responses_total{{{OF},{AT}}}[$__rate_interval]))"
    return (
        board(
            "Tocsin: the plumbing", "tocsin-plumbing", "Whether the monitor sees, keeps up, and its cost.", runbooks,
            variable("model", "model", "label_values(tocsin_responses_total, model)"),
            variable("instance", "instance", "label_values(tocsin_relay_connections, instance)"),
        )
        .with_row(build.Row("Does it see?"))
        .with_panel(number("Unscored", "The share of responses that pass without a judgement.", "percentunit",
                           Query(f"({unscored} or vector(0)) / {every}", "unscored"), red=0.05))
        .with_panel(number("Responses", "A second, of guarded methods.", "reqps", Query(every, "responses")))
        .with_panel(number("Tocsins", "Processes that Prometheus reaches.", "none",
                           Query(f"count(tocsin_relay_connections{{{AT}}})", "up")))
        .with_panel(number("Waiting for the scorer", "Responses, the most at one place.", "none",
                           Query(f"max(tocsin_relay_waiting{{{AT}}})", "waiting"), red=1_000))
        .with_panel(lines("Unscored by reason", "For each second; docs/outcomes.md explains each reason.", "reqps",
                          Query(f"sum by (model, reason) (rate(tocsin_unscored_total{{{OF},{AT}}}[$__rate_interval]))",
                                "{{model}} {{reason}}")))
        .with_panel(lines("Calls", "A second, by whether their method is guarded.", "reqps",
                          Query(f"sum by (guarded) (rate(tocsin_relay_calls_total{{{AT}}}[$__rate_interval]))",
                                "guarded: {{guarded}}")))
        .with_row(build.Row("Does it keep up, and what does it cost?"))
        .with_panel(lines("Judging a batch", "From reading its messages to its verdicts.", "s",
                          _quantile(0.5, "tocsin_scoring_seconds", f"{OF},{AT}"),
                          _quantile(0.99, "tocsin_scoring_seconds", f"{OF},{AT}")))
        .with_panel(lines("Waiting for a verdict", "What it adds to a response: the time that trailers waited.", "s",
                          _quantile(0.5, "tocsin_added_seconds", AT), _quantile(0.99, "tocsin_added_seconds", AT)))
        .with_panel(lines("Responses judged together", "They grow by themselves under load.", "none",
                          _quantile(0.5, "tocsin_batch_responses", AT), _quantile(0.99, "tocsin_batch_responses", AT)))
        .with_panel(lines("Processor", "Seconds a second, of the process that is scraped.", "none",
                          Query(f'rate(process_cpu_seconds_total{{{AT}}}[$__rate_interval]) and on (instance) '
                                "tocsin_relay_connections", "{{instance}}")))
        .with_panel(lines("Memory", "Resident, of the process that is scraped; bytes of messages.", "bytes",
                          Query(f"process_resident_memory_bytes{{{AT}}} and on (instance) tocsin_relay_connections",
                                "{{instance}}"),
                          Query(f"tocsin_relay_kept_bytes{{{AT}}}", "messages {{instance}}")))
        .with_panel(lines("File descriptors", "Open, of the process that is scraped.", "none",
                          Query(f"process_open_fds{{{AT}}} and on (instance) tocsin_relay_connections",
                                "{{instance}}")))
        .with_row(build.Row("The relay"))
        .with_panel(lines("Connections and calls under way", "", "none",
                          Query(f"sum(tocsin_relay_connections{{{AT}}})", "connections"),
                          Query(f"sum(tocsin_relay_streams{{{AT}}})", "calls")))
        .with_panel(lines("Upstream trouble", "A second.", "reqps",
                          Query(f"sum(rate(tocsin_relay_upstream_failures_total{{{AT}}}[$__rate_interval]))", "failed"),
                          Query(f"sum(rate(tocsin_relay_upstream_goaways_total{{{AT}}}[$__rate_interval]))",
                                "goaways")))
        .with_panel(lines("Not understood, limited", "A second: forwarded or refused unread, and refused by a limit.",
                          "reqps",
                          Query(f"sum by (what) (rate(tocsin_relay_not_understood_total{{{AT}}}[$__rate_interval]))",
                                "not understood: {{what}}"),
                          Query(f"sum by (limit) (rate(tocsin_relay_limited_total{{{AT}}}[$__rate_interval]))",
                                "limit: {{limit}}")))
        .with_panel(lines("Reloads, workers", "Reloads of the configuration; workers that died.", "none",
                          Query(f"sum by (outcome) (increase(tocsin_reloads_total{{{AT}}}[$__rate_interval]))",
                                "reloads {{outcome}}"),
                          Query(f"sum by (instance) (tocsin_workers{{{AT}}})", "workers {{instance}}"),
                          Query(f"sum by (instance) (increase(tocsin_worker_restarts_total{{{AT}}}[$__rate_interval]))",
                                "died {{instance}}")))
        .with_row(build.Row("What it sends to others"))
        .with_panel(lines("Events", "A second, by target and outcome; failed ones are tried again.", "reqps",
                          Query(f"sum by (target, outcome) (rate(tocsin_events_total{{{AT}}}[$__rate_interval]))",
                                "{{target}} {{outcome}}"), span=8))
        .with_panel(lines("Events waiting", "On disk, not delivered yet.", "bytes",
                          Query(f"sum by (target) (tocsin_events_waiting_bytes{{{AT}}})", "{{target}}"), span=8))
        .with_panel(lines("OTLP exports", "A second, by outcome.", "reqps",
                          Query(f"sum by (signal, outcome) (rate(tocsin_otlp_exports_total{{{AT}}}[$__rate_interval]))",
                                "{{signal}} {{outcome}}"), span=8))
        .with_panel(lines("Candidate against live bundle", "Responses a second, by both severities.", "reqps",
                          Query(f"sum by (model, severity, live) (rate(tocsin_shadow_responses_total{{{OF},{AT}}}"
                                "[$__rate_interval]))", "{{model}}: candidate {{severity}}, live {{live}}"), span=24))
    )  # fmt: skip


def _quantile(share: float, metric: str, matchers: str) -> Query:
    expr = f"histogram_quantile({share}, sum by (le) (rate({metric}_bucket{{{matchers}}}[$__rate_interval])))"
    return Query(expr, f"{share:.0%}")
