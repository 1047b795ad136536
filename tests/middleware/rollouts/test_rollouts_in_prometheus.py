"""Claims about `tocsin gate` on a Prometheus: what its series say decides, and the templates' PromQL says the same."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from math import exp, isnan, log

import numpy as np
import pytest
import yaml
from tests.middleware.rollouts.gate_command import AHEAD, HOUR, SCRAPE, facts, gate
from tests.prometheus_server import Samples, prometheus_with, value_of

from tocsin.errors import CheckError
from tocsin.rollouts.prometheus import Prometheus, Span, Watched, two_versions
from tocsin.rollouts.promql import Compared, log_evalue
from tocsin_calibration.online.rollout_gate import RolloutGate
from tocsin_calibration.online.two_streams import AgainstRate, Streams


def pod(
    name: str,
    start: float,
    end: float,
    *,
    seed: int,
    alarm: float = 0.05,
    rate: float = 20,
    unscored: float = 0.0,
    **labels: str,
) -> dict[str, Samples]:
    """One target's series, scraped at times of its own, by a Poisson stream of responses."""
    draw = np.random.default_rng(seed)
    at = np.arange(start + 0.137 * seed, end, SCRAPE)
    arrived = draw.poisson(rate, len(at))
    responses, alarms = np.cumsum(arrived), np.cumsum(draw.binomial(arrived, alarm))
    missed = np.cumsum(draw.binomial(arrived, unscored))
    pairs = ",".join(f'{key}="{value}"' for key, value in {"pod": name, **labels}.items())
    return {
        f'tocsin_promised_total{{model="digits",{pairs}}}': list(zip(at, responses, strict=True)),
        f'tocsin_promised_alarms_total{{model="digits",severity="warning",{pairs}}}': list(
            zip(at, alarms, strict=True)
        ),
        f'tocsin_unscored_total{{model="digits",reason="late",{pairs}}}': list(zip(at, missed, strict=True)),
        f"process_start_time_seconds{{{pairs}}}": [(moment, start) for moment in at],
    }


def began_anew(series: dict[str, Samples], later: dict[str, Samples]) -> dict[str, Samples]:
    return {name: [*samples, *later[name]] for name, samples in series.items()}


@pytest.fixture(scope="module")
def now() -> float:
    return time.time()


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory, now: float) -> Iterator[str]:
    end, start = now + AHEAD, now - 0.8 * HOUR
    series = pod("a", now - 2 * HOUR, end, seed=1, hash="old") | pod("b", now - 2 * HOUR, end, seed=2, hash="old")
    for seed, (label, options) in enumerate(
        {"good": {}, "bad": {"alarm": 0.2}, "blind": {"unscored": 0.3}}.items(), start=3
    ):
        series |= pod(label, start, end, seed=seed, rate=12, hash=label, **options)  # type: ignore[arg-type]
    series |= pod("silent", start, now - 0.3 * HOUR, seed=6, rate=12, hash="silent")
    for replica in "01":
        series |= pod("twice", start, end, seed=7, hash="twice", prometheus_replica=replica)
    middle = now - 0.4 * HOUR
    series |= began_anew(
        pod("again", start, middle, seed=8, hash="again", rate=3),
        pod("again", middle, end, seed=8, hash="again", rate=60),
    )
    series |= pod("left", now - 2 * HOUR, now - 0.5 * HOUR, seed=9, hash="mixed")
    series |= pod("came", now - 0.5 * HOUR, end, seed=10, hash="mixed")
    gap = pod("gap", start, end, seed=11, hash="gap")
    series |= {
        name: [s for s in samples if not -0.5 * HOUR < s[0] - now < -0.2 * HOUR] for name, samples in gap.items()
    }
    at = np.arange(start, end, SCRAPE)
    steps = np.arange(len(at))
    for version, each in (("1", 2), ("2", 6)):  # alarms in 40 responses
        pairs = f'model="digits",version="{version}",pod="v"'
        series[f'tocsin_responses_total{{{pairs},method="/m",decision="pass"}}'] = list(
            zip(at, (40 - each) * steps, strict=True)
        )
        series[f'tocsin_responses_total{{{pairs},method="/m",decision="flag"}}'] = list(
            zip(at, each * steps, strict=True)
        )
        series[f'tocsin_responses_total{{{pairs},method="/m",decision="unscored"}}'] = list(
            zip(at, 9 * steps, strict=True)
        )
        series[f'tocsin_alarms_total{{{pairs},severity="warning"}}'] = list(zip(at, (each - 1) * steps, strict=True))
        series[f'tocsin_alarms_total{{{pairs},severity="critical"}}'] = list(zip(at, steps, strict=True))
    for severity, alpha in (("warning", 0.05), ("critical", 0.01)):
        series[f'tocsin_alpha{{model="digits",severity="{severity}"}}'] = [(moment, alpha) for moment in at]
    for candidate, live, each in (
        ("none", "none", 90),
        ("warning", "none", 3),
        ("none", "critical", 1),
        ("critical", "warning", 4),
    ):
        name = f'tocsin_shadow_responses_total{{model="digits",severity="{candidate}",live="{live}",pod="s"}}'
        series[name] = list(zip(at, each * steps, strict=True))
    with prometheus_with(tmp_path_factory.mktemp("prometheus"), series) as address:
        yield address


def options_for(address: str, canary: str, *more: object, stable: str = 'hash="old"') -> list[object]:
    return ["--prometheus", address, "--model", "digits", "--canary", canary, "--stable", stable, *more]


@pytest.mark.long
@pytest.mark.parametrize(
    "canary, decision", [("good", "promote"), ("bad", "abort"), ("mixed", "promote"), ("gap", "promote")]
)
def test_prometheus_tells_a_bad_canary_from_a_good_one(prometheus: str, canary: str, decision: str) -> None:
    more = (
        ["--within", "90m"]
        if canary != "mixed"
        else ["--since", time.strftime("%Y-%m-%dT%H:%M", time.gmtime(time.time() - HOUR))]
    )
    result = facts(*options_for(prometheus, f'hash="{canary}"', *more))
    assert result["decision"] == decision and result["batches"] >= 45


@pytest.mark.long
@pytest.mark.parametrize("canary, why", [("blind", "not scored"), ("silent", "not heard")])
def test_nothing_is_promoted_that_cannot_be_seen(prometheus: str, canary: str, why: str) -> None:
    result = facts(*options_for(prometheus, f'hash="{canary}"', "--within", "2h"))
    assert result["decision"] == "continue" and result["promote"]["reached"] is not None
    assert any(why in reason for reason in result["withheld"])


@pytest.mark.long
@pytest.mark.parametrize(
    "canary, stable, more, why",
    [('hash="none"', 'hash="old"', [], "no counts of model"), ('hash="good"', 'hash=~"old|good"', [], "both match"),
     ('hash="twice"', 'hash="old"', [], "one target"), ('hash="good"', 'hash="old"', ["--within", "30m"], "--since"),
     ('hash="good"', 'hash="old"', ["--severity", "critical"], "no alarms of severity"),
     ('hash="good"', 'hash="old"', ["--since", "2020-01-01"], "longer ago"),
     ('version="2"', 'version="1"', ["--severity", "other"], "knows no promise")],
)  # fmt: skip
def test_counts_that_lack_something_are_an_error(
    prometheus: str, canary: str, stable: str, more: list[str], why: str
) -> None:
    done = gate(*options_for(prometheus, canary, *more, stable=stable))
    assert isinstance(done.exception, CheckError) and why in str(done.exception)


@pytest.mark.long
def test_versions_behind_one_sidecar_are_told_apart_by_their_label(prometheus: str) -> None:
    result = facts(*options_for(prometheus, 'version="2"', "--within", "2h", stable='version="1"'))
    assert result["decision"] == "abort" and result["ratio"]["value"] == pytest.approx(3)
    assert result["canary_alarms"] / result["canary_responses"] == pytest.approx(6 / 40)
    critical = facts(
        *options_for(prometheus, 'version="2"', "--within", "2h", "--severity", "critical", stable='version="1"')
    )
    assert critical["ratio"]["value"] == pytest.approx(1)


@pytest.mark.long
def test_a_shadow_is_compared_pair_by_pair(prometheus: str) -> None:
    result = facts("--prometheus", prometheus, "--model", "digits", "--shadow", "--within", "2h")
    assert result["decision"] == "abort" and result["ratio"]["value"] == pytest.approx(7 / 5)


@pytest.mark.long
def test_a_restart_loses_nothing_but_what_was_not_scraped(prometheus: str, now: float) -> None:
    span = Span(now, 60.0, 2 * HOUR)
    canary, _ = two_versions(Prometheus(prometheus), Watched("digits", "warning"), 'hash="again"', None, span)
    assert canary.resets == 1
    alarms, responses, _ = canary.counts.sum(axis=0)
    minutes = len(canary.counts)
    assert 3 * 4 * minutes * 0.3 < responses and (canary.counts >= 0).all() and alarms <= responses
    assert canary.counts[:, 1].max() < 2 * 4 * 60


@pytest.mark.long
@pytest.mark.parametrize("rate", [None, 0.05])
@pytest.mark.parametrize("canary", ["good", "bad"])
def test_the_templates_promql_is_the_gates_figure(prometheus: str, now: float, canary: str, rate: float | None) -> None:
    span = Span(now, 60.0, 2 * HOUR)
    watched, stable = Watched("digits", "warning"), None if rate else 'hash="old"'
    new, old = two_versions(Prometheus(prometheus), watched, f'hash="{canary}"', stable, span)
    counts = new.counts[:, :2]
    comparison = AgainstRate.of(counts, rate) if rate else Streams.of(counts, old.counts[:, :2])
    verdict = RolloutGate().verdict(comparison)
    compared = Compared("digits", "warning", f'hash="{canary}"', stable, rate, 0.05, 60, 7200)
    for ratio, direction, evidence in ((1.0, "above", verdict.abort), (1.5, "below", verdict.promote)):
        (result,) = value_of(prometheus, log_evalue(compared, ratio, direction), now)  # type: ignore[arg-type]
        assert float(result["value"][1]) == pytest.approx(evidence.log_evalue, abs=1e-6)
        assert abs(evidence.log_evalue) > 1
    (old_canary,) = value_of(prometheus, log_evalue(replace(compared, within=1200), 1.0, "above"), now)
    assert isnan(float(old_canary["value"][1]))
    (nothing,) = value_of(prometheus, log_evalue(replace(compared, canary='hash="none"'), 1.0, "above"), now)
    assert float(nothing["value"][1]) == 0


@pytest.mark.long
def test_a_restart_is_no_evidence_in_promql(prometheus: str, now: float) -> None:
    compared = Compared("digits", "warning", 'hash="again"', 'hash="old"', None, 0.05, 60, 7200)
    (result,) = value_of(prometheus, log_evalue(compared, 1.0, "above"), now)
    assert float(result["value"][1]) < log(100)


def test_argo_waits_for_evidence_and_aborts_by_it() -> None:
    done = gate(
        "--template", "argo", "--model", "Digits v2", "--wait", "30m", "--prometheus", "http://p:9090", "--delta", 0.02
    )
    assert done.exit_code == 0, done.output
    abort, promote = yaml.safe_load_all(done.stdout)
    for manifest, name in ((abort, "tocsin-digits-v2-abort"), (promote, "tocsin-digits-v2-promote")):
        assert (manifest["apiVersion"], manifest["kind"]) == ("argoproj.io/v1alpha1", "AnalysisTemplate")
        assert manifest["metadata"] == {"name": name}
        assert manifest["spec"]["args"] == [{"name": "canary-hash"}, {"name": "stable-hash"}]
        (metric,) = manifest["spec"]["metrics"]
        assert metric["provider"]["prometheus"]["address"] == "http://p:9090"
        assert '"{{args.canary-hash}}"' in metric["provider"]["prometheus"]["query"]
    (metric,) = abort["spec"]["metrics"]
    limit = float(metric["failureCondition"].removeprefix("result[0] >= "))
    assert exp(limit) == pytest.approx(50, rel=1e-3) and "count" not in metric
    (metric,) = promote["spec"]["metrics"]
    assert metric["count"] == 30 and metric["consecutiveSuccessLimit"] == 1 and metric["failureLimit"] == -1


def test_flagger_reads_the_evidence_as_a_metric() -> None:
    done = gate("--template", "flagger", "--model", "digits", "--rate", 0.05, "--within", "6h")
    (manifest,) = yaml.safe_load_all(done.stdout)
    assert (manifest["apiVersion"], manifest["kind"]) == ("flagger.app/v1beta1", "MetricTemplate")
    assert manifest["spec"]["provider"] == {"type": "prometheus", "address": "http://prometheus.monitoring:9090"}
    assert "{{ target }}-primary" not in manifest["spec"]["query"] and "[21600s:60s]" in manifest["spec"]["query"]
    assert f"max: {log(100):.4f}" in done.stdout
