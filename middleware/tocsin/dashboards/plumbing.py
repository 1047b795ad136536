"""The dashboard about the monitor: does it see everything, does it keep up, and what does it cost."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard as build

from tocsin.dashboards.panels import Panel, Query, board, lines, number, variable, with_rows

OF = 'model=~"$model"'
AT = 'instance=~"$instance"'
_UNSCORED = f'sum(rate(tocsin_responses_total{{{OF},{AT},decision="unscored"}}[$__rate_interval]))'
_EVERY = f"sum(rate(tocsin_responses_total{{{OF},{AT}}}[$__rate_interval]))"


def plumbing(runbooks: str) -> build.Dashboard:
    """The dashboard, with links to the runbooks at that address."""
    dashboard = board(
        "Tocsin: the plumbing", "tocsin-plumbing", "Whether the monitor sees, keeps up, and its cost.", runbooks,
        variable("model", "model", "label_values(tocsin_responses_total, model)"),
        variable("instance", "instance", "label_values(tocsin_relay_connections, instance)"),
    )  # fmt: skip
    return with_rows(
        dashboard,
        {
            "Does it see?": _judgement_panels(),
            "Does it keep up, and what does it cost?": _load_panels(),
            "The relay": _relay_panels(),
            "What it sends to others": _delivery_panels(),
        },
    )


def _judgement_panels() -> list[Panel]:
    """Whether every response is judged."""
    return [
        number("Unscored", "The share of responses that pass without a judgement.", "percentunit",
               Query(f"({_UNSCORED} or vector(0)) / {_EVERY}", "unscored"), red=0.05),
        number("Responses", "A second, of guarded methods.", "reqps", Query(_EVERY, "responses")),
        number("Tocsins", "Processes that Prometheus reaches.", "none",
               Query(f"count(tocsin_relay_connections{{{AT}}})", "up")),
        number("Waiting for the scorer", "Responses, the most at one place.", "none",
               Query(f"max(tocsin_relay_waiting{{{AT}}})", "waiting"), red=1_000),
        lines("Unscored by reason", "For each second; docs/outcomes.md explains each reason.", "reqps",
              Query(f"sum by (model, reason) (rate(tocsin_unscored_total{{{OF},{AT}}}[$__rate_interval]))",
                    "{{model}} {{reason}}")),
        lines("Calls", "A second, by whether their method is guarded.", "reqps",
              Query(f"sum by (guarded) (rate(tocsin_relay_calls_total{{{AT}}}[$__rate_interval]))",
                    "guarded: {{guarded}}")),
    ]  # fmt: skip


def _load_panels() -> list[Panel]:
    """Whether judging keeps up, and what it costs."""
    return [
        lines("Judging a batch", "From reading its messages to its verdicts.", "s",
              _quantile(0.5, "tocsin_scoring_seconds", f"{OF},{AT}"),
              _quantile(0.99, "tocsin_scoring_seconds", f"{OF},{AT}")),
        lines("Waiting for a verdict", "What it adds to a response: the time that trailers waited.", "s",
              _quantile(0.5, "tocsin_added_seconds", AT), _quantile(0.99, "tocsin_added_seconds", AT)),
        lines("Responses judged together", "They grow by themselves under load.", "none",
              _quantile(0.5, "tocsin_batch_responses", AT), _quantile(0.99, "tocsin_batch_responses", AT)),
        lines("Processor", "Seconds a second, of the process that is scraped.", "none",
              Query(f'rate(process_cpu_seconds_total{{{AT}}}[$__rate_interval]) and on (instance) '
                    "tocsin_relay_connections", "{{instance}}")),
        lines("Memory", "Resident, of the process that is scraped; bytes of messages.", "bytes",
              Query(f"process_resident_memory_bytes{{{AT}}} and on (instance) tocsin_relay_connections",
                    "{{instance}}"),
              Query(f"tocsin_relay_kept_bytes{{{AT}}}", "messages {{instance}}")),
        lines("File descriptors", "Open, of the process that is scraped.", "none",
              Query(f"process_open_fds{{{AT}}} and on (instance) tocsin_relay_connections",
                    "{{instance}}")),
    ]  # fmt: skip


def _relay_panels() -> list[Panel]:
    """What the relay carries and refuses."""
    return [
        lines("Connections and calls under way", "", "none",
              Query(f"sum(tocsin_relay_connections{{{AT}}})", "connections"),
              Query(f"sum(tocsin_relay_streams{{{AT}}})", "calls")),
        lines("Upstream trouble", "A second.", "reqps",
              Query(f"sum(rate(tocsin_relay_upstream_failures_total{{{AT}}}[$__rate_interval]))", "failed"),
              Query(f"sum(rate(tocsin_relay_upstream_goaways_total{{{AT}}}[$__rate_interval]))",
                    "goaways")),
        lines("Not understood, limited", "A second: forwarded or refused unread, and refused by a limit.",
              "reqps",
              Query(f"sum by (what) (rate(tocsin_relay_not_understood_total{{{AT}}}[$__rate_interval]))",
                    "not understood: {{what}}"),
              Query(f"sum by (limit) (rate(tocsin_relay_limited_total{{{AT}}}[$__rate_interval]))",
                    "limit: {{limit}}")),
        lines("Reloads, workers", "Reloads of the configuration; workers that died.", "none",
              Query(f"sum by (outcome) (increase(tocsin_reloads_total{{{AT}}}[$__rate_interval]))",
                    "reloads {{outcome}}"),
              Query(f"sum by (instance) (tocsin_workers{{{AT}}})", "workers {{instance}}"),
              Query(f"sum by (instance) (increase(tocsin_worker_restarts_total{{{AT}}}[$__rate_interval]))",
                    "died {{instance}}")),
    ]  # fmt: skip


def _delivery_panels() -> list[Panel]:
    """Whether events, spans and candidates' counts arrive."""
    return [
        lines("Events", "A second, by target and outcome; failed ones are tried again.", "reqps",
              Query(f"sum by (target, outcome) (rate(tocsin_events_total{{{AT}}}[$__rate_interval]))",
                    "{{target}} {{outcome}}"), span=8),
        lines("Events waiting", "On disk, not delivered yet.", "bytes",
              Query(f"sum by (target) (tocsin_events_waiting_bytes{{{AT}}})", "{{target}}"), span=8),
        lines("OTLP exports", "A second, by outcome.", "reqps",
              Query(f"sum by (signal, outcome) (rate(tocsin_otlp_exports_total{{{AT}}}[$__rate_interval]))",
                    "{{signal}} {{outcome}}"), span=8),
        lines("Candidate against live bundle", "Responses a second, by both severities.", "reqps",
              Query(f"sum by (model, severity, live) (rate(tocsin_shadow_responses_total{{{OF},{AT}}}"
                    "[$__rate_interval]))", "{{model}}: candidate {{severity}}, live {{live}}"), span=24),
    ]  # fmt: skip


def _quantile(share: float, metric: str, matchers: str) -> Query:
    expr = f"histogram_quantile({share}, sum by (le) (rate({metric}_bucket{{{matchers}}}[$__rate_interval])))"
    return Query(expr, f"{share:.0%}")
