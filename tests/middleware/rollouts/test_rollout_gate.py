"""Claims about `tocsin gate`: what it reads, when it decides, and that nothing is decided on counts with a hole."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import exp, isnan, log
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import yaml
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from tests.prometheus_server import Samples, prometheus_with, value_of
from typer.testing import CliRunner, Result

from tocsin.cli.main import app
from tocsin.errors import CheckError, TocsinError
from tocsin.rollouts.counters import CounterSample, in_batches
from tocsin.rollouts.prometheus import Prometheus, Span, Watched, two_versions
from tocsin.rollouts.promql import Compared, log_evalue
from tocsin_calibration import CalibrationFault
from tocsin_calibration.online.rollout_gate import RolloutGate
from tocsin_calibration.online.two_streams import AgainstRate, Streams

HOUR, SCRAPE = 3600.0, 15.0
AHEAD = 1800.0  # seconds that series go on after now: tests may be slow
PROMOTE, ABORT, ERROR, CONTINUE = 0, 1, 2, 3


def gate(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["gate", *map(str, arguments)])


def facts(*arguments: object) -> dict[str, Any]:
    done = gate(*arguments, "--json")
    assert done.exit_code in (PROMOTE, ABORT, CONTINUE), done.output + str(done.exception)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize(
    "canary, stable, code",
    [("50/1000", "1000/20000", PROMOTE), ("60/300", "100/2000", ABORT), ("5/100", "100/2000", CONTINUE),
     ("0/0", "0/0", CONTINUE)],
)  # fmt: skip
def test_counts_by_hand_decide_by_exit_code(canary: str, stable: str, code: int) -> None:
    done = gate("--canary", canary, "--stable", stable)
    assert done.exit_code == code, done.output
    assert done.output.startswith({0: "promote", 1: "abort", 3: "continue"}[code])
    assert "one look" in done.output  # and what to do to look again


def test_a_promised_rate_stands_in_for_the_stable_version() -> None:
    result = facts("--canary", "40/300", "--rate", "0.05")
    assert result["decision"] == "abort" and result["stable_responses"] is None and result["reference"]["value"] == 0.05
    assert result["ratio"]["low"] > 1 and result["gate"]["delta"] == 0.01


def test_looks_are_kept_as_the_batches_between_them(tmp_path: Path) -> None:
    looks = tmp_path / "looks.json"
    for canary, stable in (("4/100", "20/400"), ("9/180", "33/700"), ("9/180", "33/700"), ("30/400", "80/1600")):
        result = facts("--canary", canary, "--stable", stable, "--looks", looks)
    batches = Streams.of([[4, 100], [5, 80], [21, 220]], [[20, 400], [13, 300], [47, 900]])
    expected = RolloutGate().verdict(batches)
    assert result["batches"] == 3  # the third look saw nothing new
    assert result["abort"]["log_evalue"] == pytest.approx(expected.abort.log_evalue)
    assert result["promote"]["log_evalue"] == pytest.approx(expected.promote.log_evalue)
    assert (result["canary_alarms"], result["stable_responses"]) == (30, 1600)


def test_a_gate_keeps_its_terms_from_look_to_look(tmp_path: Path) -> None:
    looks = tmp_path / "looks.json"
    counts = ["--canary", "4/100", "--stable", "20/400", "--looks", looks]
    assert gate(*counts).exit_code == CONTINUE
    for changed in (
        ["--delta", 0.05],
        ["--excess", 2],
        ["--baseline", 0.1],
        ["--severity", "critical"],
        ["--beta", 0.2],
    ):
        done = gate(*counts, *changed)
        assert isinstance(done.exception, CheckError) and "began with" in str(done.exception), changed
    assert "rate" in str(gate("--canary", "4/100", "--rate", 0.05, "--looks", looks).exception)
    fewer = gate("--canary", "3/100", "--stable", "20/400", "--looks", looks)
    assert isinstance(fewer.exception, CheckError) and "no later look has fewer" in str(fewer.exception)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"terms": {}, "batches": [1], "last": {}}', "\x00"])
def test_a_file_that_no_gate_wrote_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "looks.json").write_text(content)
    done = gate("--canary", "4/100", "--stable", "20/400", "--looks", tmp_path / "looks.json")
    assert isinstance(done.exception, CheckError) and "tocsin gate" in str(done.exception)


@pytest.mark.parametrize(
    "arguments",
    [[], ["--canary", "1/10"], ["--canary", "1/10", "--stable", "1/10", "--rate", "0.1"], ["--stable", "1/10"],
     ["--canary", "11/10", "--stable", "1/10"], ["--canary", "1/10", "--stable", "127.0.0.1:9"],
     ["--canary", "1/10", "--canary", "2/10", "--stable", "1/10"],
     ["--canary", "1/10", "--stable", "1/10", "--delta", "0"],
     ["--canary", "1/10", "--rate", "1.5"], ["--canary", "1/10", "--rate", "0.7"], ["--shadow", "--stable", "1/10"],
     ["--prometheus", "http://127.0.0.1:9", "--canary", 'a="b"', "--stable", 'a="c"'],
     ["--prometheus", "http://127.0.0.1:9", "--model", "m", "--canary", 'a="b"', "--stable", 'a="c"'],
     ["--prometheus", "http://127.0.0.1:9", "--model", "m", "--canary", 'a="b"} or x{', "--stable", 'a="c"'],
     ["--canary", "127.0.0.1:9", "--stable", "127.0.0.1:9"],
     ["--canary", "1/10", "--stable", "1/10", "--every", "soon"],
     ["--canary", "1/10", "--stable", "1/10", "--since", "soon"], ["--template", "argo"],
     ["--template", "argo", "--model", "m", "--shadow"], ["--template", "argo", "--model", "m", "--every", "1.5s"]],
)  # fmt: skip
def test_what_cannot_be_looked_at_is_an_error_and_no_decision(arguments: list[str]) -> None:
    done = gate(*arguments)
    assert done.exception is not None and not isinstance(done.exception, SystemExit)
    assert isinstance(done.exception, TocsinError | CalibrationFault) and str(done.exception)


def test_a_fault_of_ours_does_not_end_with_the_code_that_aborts(monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(*arguments: object) -> None:
        raise ValueError("of ours")

    monkeypatch.setattr("tocsin.cli.gate.read", fault)
    assert gate("--canary", "5/100", "--stable", "100/2000").exit_code == ERROR


@pytest.mark.long
def test_a_gate_waits_until_time_is_over(sidecars: list[Sidecar], tmp_path: Path) -> None:
    canary, stable, _ = sidecars
    options = ["--canary", canary.address, "--stable", stable.address, "--looks", tmp_path / "looks.json"]
    assert gate(*options, "--every", "1s", "--wait", "1s").exit_code == CONTINUE
    canary.count(60, 200)
    stable.count(40, 800)
    done = gate(*options, "--every", "1s", "--wait", "10m")  # decided at its first look
    assert done.exit_code == ABORT


class Sidecar:
    """What a gate scrapes: the real exposition of counters that a test moves."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self.total = Counter("tocsin_promised", "", ["model"], registry=registry).labels("digits")
        self.alarms = Counter("tocsin_promised_alarms", "", ["model", "severity"], registry=registry).labels(
            "digits", "warning"
        )
        self.unscored = Counter("tocsin_unscored", "", ["model", "reason"], registry=registry).labels("digits", "late")
        self.began = Gauge("process_start_time_seconds", "", registry=registry)
        self.began.set(1e9)
        self.shadow = Counter("tocsin_shadow_responses", "", ["model", "severity", "live"], registry=registry)
        alpha = Gauge("tocsin_alpha", "", ["model", "severity"], registry=registry)
        alpha.labels("digits", "warning").set(0.05)
        alpha.labels("digits", "critical").set(0.01)

        class Metrics(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                content = generate_latest(registry)
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Metrics)
        Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"127.0.0.1:{self.server.server_port}"

    def count(self, alarms: int, responses: int) -> None:
        self.alarms.inc(alarms)
        self.total.inc(responses)


@pytest.fixture
def sidecars() -> Iterator[list[Sidecar]]:
    started = [Sidecar() for _ in range(3)]
    yield started
    for sidecar in started:
        sidecar.server.shutdown()
        sidecar.server.server_close()


def test_sidecars_are_scraped_and_compared_from_the_first_look_on(sidecars: list[Sidecar], tmp_path: Path) -> None:
    canary, stable, other = sidecars
    stable.count(900, 1000)  # of a time before the rollout
    options = ["--canary", canary.address, "--stable", stable.address, "--stable", other.address]
    options += ["--looks", tmp_path / "looks.json"]
    first = facts(*options)
    assert first["decision"] == "continue" and first["batches"] == 0
    canary.count(5, 100)
    stable.count(10, 200)
    other.count(9, 190)
    second = facts(*options)
    assert (second["canary_alarms"], second["canary_responses"]) == (5, 100)
    assert (second["stable_alarms"], second["stable_responses"]) == (19, 390)
    other.alarms.reset()
    other.total.reset()  # a process that was started again
    other.count(3, 50)
    stable.count(40, 800)
    canary.count(60, 200)
    third = facts(*options)
    assert (third["stable_alarms"], third["stable_responses"]) == (62, 1240)
    assert third["decision"] == "abort" and any("restarted" in remark for remark in third["remarks"])


def test_a_canary_that_is_not_scored_is_not_promoted(sidecars: list[Sidecar]) -> None:
    canary, stable, _ = sidecars
    canary.count(50, 1000)
    stable.count(1000, 20000)
    canary.unscored.inc(40)
    options = ["--canary", canary.address, "--stable", stable.address, "--model", "digits"]
    assert facts(*options)["decision"] == "promote"
    canary.unscored.inc(100)
    result = facts(*options)
    assert result["decision"] == "continue" and "12.3%" in result["withheld"][0]
    assert facts(*options, "--most-unscored", 0.2)["decision"] == "promote"
    assert "guards no model" in str(gate(*options[:-1], "other").exception)
    assert "of severity 'critical'" in str(gate(*options, "--severity", "critical").exception)


def test_a_candidate_is_judged_by_the_responses_that_it_shares_with_the_live_bundle(sidecars: list[Sidecar]) -> None:
    sidecar = sidecars[0]
    options = ["--shadow", "--canary", sidecar.address, "--model", "digits"]
    assert "no candidate" in str(gate(*options).exception)
    for candidate, live, count in (
        ("none", "none", 4700), ("warning", "warning", 150), ("critical", "warning", 50), ("critical", "none", 21),
        ("none", "critical", 22),
    ):  # fmt: skip
        sidecar.shadow.labels("digits", candidate, live).inc(count)
    result = facts(*options)
    assert result["decision"] == "promote" and (result["canary_alarms"], result["stable_alarms"]) == (221, 222)
    assert facts(*options, "--severity", "critical")["canary_alarms"] == 71
    sidecar.shadow.labels("digits", "failed", "none").inc(500)  # what it cannot score says nothing of it
    result = facts(*options)
    assert result["decision"] == "continue" and "9.2%" in result["withheld"][0] and result["canary_responses"] == 4943
    sidecar.shadow.labels("digits", "warning", "none").inc(60)
    assert facts(*options)["decision"] == "abort"


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


def test_batches_end_at_multiples_and_wait_for_their_end() -> None:
    rows = [CounterSample(at, (at, 2 * at)) for at in (95.0, 110.0, 125.0, 185.0, 200.0, 245.0)]
    batches = in_batches({"t": rows}, 60.0, 250.0, 60.0, 2)
    assert batches.counts.tolist() == [[0, 0], [15, 30], [75, 150]]  # 110 at 120, 125 at 180, 200 at 240
    lost = in_batches(
        {"t": [*rows, CounterSample(1000.0, (1000.0, 2000.0)), CounterSample(1030.0, (1001.0, 2002.0))]},
        60.0,
        1200.0,
        60.0,
        2,
    )
    assert lost.gaps == 1 and lost.counts[4:].sum() == 3
