"""Claims about what operators connect to."""

from __future__ import annotations

import gzip
import urllib.error
import urllib.request
from collections import Counter, defaultdict
from math import inf, nan
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import INFER, METHOD, SIGNALS, far_away, inference, running, safe_traffic, settings
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry
from prometheus_client import generate_latest as plain_text
from prometheus_client.openmetrics.exposition import generate_latest as open_text
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.utils import floatToGoString

from tocsin.configuration.fields import Address
from tocsin.errors import StartError
from tocsin.judgement.call import Call
from tocsin.judgement.guard import Guard
from tocsin.sinks.exposition import Exposition, Writer
from tocsin.sinks.families import CAUSE, CHANGED, DRIFT, EVIDENCE, QUIET, RESPONSES, Sample
from tocsin.sinks.histogram import Histogram
from tocsin.sinks.prometheus import PrometheusSink
from tocsin.sinks.snapshot import ModelSnapshot
from tocsin.verdict import Verdict
from tocsin_detectors import Observations


def fetch(url: str, accept: str = "", method: str = "GET") -> tuple[int, str]:
    request = urllib.request.Request(url, headers={"Accept": accept} if accept else {}, method=method)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_health_readiness_and_metrics_over_http(bundle: Path) -> None:
    with model_server() as (_, address), running(settings(address, bundle)) as relay:
        assert relay.sidecar.http is not None
        base = f"http://{relay.sidecar.http.address}"
        assert fetch(f"{base}/healthz") == (200, "alive\n")
        assert fetch(f"{base}/readyz") == (200, "ready\n")
        assert fetch(f"{base}/nothing")[0] == 404
        assert fetch(f"{base}/metrics", method="POST")[0] == 405
        relay.sidecar._ready = False
        assert fetch(f"{base}/readyz") == (503, "not ready\n")


def test_metrics_parse_as_prometheus_and_as_openmetrics(bundle: Path) -> None:
    safe = safe_traffic(60)
    with model_server() as (model, address), running(settings(address, bundle)) as relay:
        model.answers = {b"%d" % row: inference(safe, slice(row, row + 1)) for row in range(60)}
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        with grpc.insecure_channel(relay.target) as channel:
            for row in range(60):
                channel.unary_unary(INFER)(b"%d" % row, metadata=(("traceparent", trace),))
        assert relay.sidecar.http is not None
        url = f"http://{relay.sidecar.http.address}/metrics"
        plain = {f.name: f for f in parse_text(fetch(url)[1])}
        open_ = {f.name: f for f in parse_openmetrics(fetch(url, "application/openmetrics-text; version=1.0.0")[1])}
        digest = next(iter(relay.sidecar.relay.context.guard.models.values())).scoring.digest
    total = sum(s.value for s in plain["tocsin_responses"].samples)
    assert total == sum(s.value for s in open_["tocsin_responses"].samples if s.name.endswith("_total")) == 60
    for name in ("tocsin_pvalue", "tocsin_scoring_seconds", "tocsin_added_seconds"):
        (count,) = [s.value for s in plain[name].samples if s.name == f"{name}_count"]
        assert count == 60
    detectors = {s.labels["detector"] for s in plain["tocsin_score"].samples}
    assert detectors == {"entropy", "mahalanobis"}
    alphas = {s.labels["severity"]: s.value for s in plain["tocsin_alpha"].samples}
    assert alphas == {"warning": 0.05, "critical": 0.01}
    assert plain["tocsin_bundle_info"].samples[0].labels["digest"] == digest
    assert any(s.exemplar for s in open_["tocsin_pvalue"].samples)


def test_the_grpc_health_service_says_serving(bundle: Path) -> None:
    config = settings(1, bundle, admin="127.0.0.1:0")
    with running(config) as relay:
        assert relay.sidecar.admin_address
        with grpc.insecure_channel(relay.sidecar.admin_address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            for service in ("", "tocsin"):
                answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=60)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_a_port_that_is_taken_is_told(bundle: Path) -> None:
    with running(settings(1, bundle)) as relay:
        assert relay.sidecar.http is not None
        address = relay.sidecar.http.address
        for setting in ("metrics", "admin"):
            config = settings(1, bundle, **{setting: str(address)})
            if setting == "admin":
                config = config.model_copy(update={"metrics": None})
            with pytest.raises(StartError, match=f"{setting}: cannot listen"), running(config):
                raise AssertionError("it started")


def test_a_histogram_counts_what_it_was_given_whenever_it_is_read() -> None:
    histogram = Histogram([1.0, 2.0])
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.add(value)
    histogram.extend([2.0] * 3_000)

    (bucket,) = histogram.buckets()
    assert (bucket.bounds, bucket.cumulative, bucket.total) == (["1", "2"], [2, 3_003, 3_004], pytest.approx(6_012.0))


@pytest.mark.parametrize("rows", [1, 40, 3_000])
def test_a_histogram_of_several_series_counts_few_values_as_it_counts_many(rows: int) -> None:
    values = np.random.default_rng(rows).normal(size=(rows, 2)).astype(np.float32)
    histogram = Histogram([-1.0, 0.0, 1.0], [0.5])
    for row in values:
        histogram.add(row[None])
    first, second = histogram.buckets()
    assert first.cumulative == [*((values[:, 0] <= bound).sum() for bound in (-1, 0, 1)), rows]
    assert second.cumulative == [(values[:, 1] <= 0.5).sum(), rows]
    assert [first.total, second.total] == pytest.approx(values.sum(axis=0, dtype=float), rel=1e-5, abs=1e-3)


@pytest.mark.parametrize("openmetrics", [False, True])
def test_the_text_of_a_scrape_says_what_the_client_library_would(bundle: Path, openmetrics: bool) -> None:
    model = {"bundle": bundle, "signals": SIGNALS}
    guard = Guard.open(settings(1, bundle, models={"digits": model, 'odd "na\\me"': model}))
    sink = PrometheusSink(guard.models)
    guard.sinks.append(sink)
    for observations in (safe_traffic(30), far_away(3)):
        for row in range(observations.rows):
            call = Call(METHOD, {}, "0af7651916cd43dd8448eb211c80319c", False)
            call.response = inference(observations, slice(row, row + 1), model=list(guard.models)[row % 2])
            guard.judge([call])
    registry = CollectorRegistry(auto_describe=False)
    accept = "application/openmetrics-text;version=1.0.0" if openmetrics else ""
    _, text = Exposition(sink, registry).answer(accept, "")
    parse = parse_openmetrics if openmetrics else parse_text

    def comparable(families: Any) -> Any:
        return sorted(
            (s.name, sorted(s.labels.items()), s.value, s.exemplar.labels if openmetrics and s.exemplar else None)
            for family in families
            for s in family.samples
        )

    registry.register(sink)
    library = (open_text if openmetrics else plain_text)(registry).decode()
    assert comparable(parse(text.decode())) == comparable(parse(library))
    assert comparable(parse(text.decode()))
    _, packed = Exposition(sink, CollectorRegistry()).answer(accept, "gzip, deflate")
    assert gzip.decompress(packed) == text


def test_what_was_not_counted_since_is_not_made_anew_and_what_was_is(bundle: Path) -> None:
    guard = Guard.open(settings(1, bundle))
    sink = PrometheusSink(guard.models)
    guard.sinks.append(sink)

    def judged() -> float:
        _, text = Exposition(sink, CollectorRegistry()).answer("", "")
        return sum(s.value for f in parse_text(text.decode()) for s in f.samples if s.name == "tocsin_pvalue_count")

    for count in (1, 2):
        call = Call(METHOD, {}, "", False)
        call.response = inference(safe_traffic(1), slice(0, 1))
        guard.judge([call])
        assert judged() == judged() == count


def test_what_is_counted_but_not_weighed_leaves_the_lines_of_evidence_as_they_are(bundle: Path) -> None:
    guard = Guard.open(settings(1, bundle))
    sink = PrometheusSink(guard.models)
    guard.sinks.append(sink)
    look = sink._looks["digits"]
    lines = []
    for count in (1, 2):
        judge_one(guard, far_away(1))
        sink.counts()
        if count == 1:
            look.refresh()
        lines.append(look.lines(openmetrics=False))
    weighed = (EVIDENCE, QUIET, DRIFT, CAUSE, CHANGED)
    assert all(lines[1][family] is lines[0][family] for family in weighed)
    assert lines[1][RESPONSES] != lines[0][RESPONSES]
    assert look.lines(openmetrics=True)[DRIFT] == lines[1][DRIFT]
    late = look.lines(openmetrics=False, cached=True)
    look.refresh()
    fresh = look.lines(openmetrics=False)
    assert late == lines[1] and all(fresh[family] != late[family] for family in (EVIDENCE, DRIFT))
    again = ModelSnapshot("digits", sink._series["digits"], guard.models["digits"], sink.limits)
    again.refresh()
    assert again.lines(openmetrics=False) == fresh


@pytest.mark.parametrize("value", [0, 7, -3, 0.0, -0.0, 1.5, 999_999.5, 1e6, 1e7, -1e7, 1e-9, inf, -inf, nan, True])
def test_numbers_are_written_as_the_client_library_writes_them(value: float) -> None:
    for number in (value, np.float64(value)):
        written = Writer().lines([Sample(DRIFT, ("m",), number)], openmetrics=False)[DRIFT]
        wanted = str(value) if isinstance(number, int) else floatToGoString(value)
        assert written == f'tocsin_drift_log_evalue{{model="m"}} {wanted}\n'


def judge_one(guard: Guard, observations: Observations) -> None:
    call = Call(METHOD, {}, "", False)
    call.response = inference(observations, slice(0, 1))
    guard.judge([call])


def test_what_depends_on_the_response_is_counted_while_it_is_there(bundle: Path) -> None:
    half = {"on_alarm": {"critical": {"action": "block", "share": 0.5}}}
    config = settings(1, bundle, mode="enforce", models={"digits": {"bundle": bundle, "signals": SIGNALS, **half}})
    guard = Guard.open(config)
    sink = PrometheusSink(guard.models)
    guard.sinks.append(sink)
    done: Counter[str] = Counter()
    embedding = 30 + np.random.default_rng(0).normal(size=(12, 8))  # fewer than are counted together
    strange = Observations({"probs": np.full((12, 10), 0.1), "embedding": embedding})
    for row in range(strange.rows):
        call = Call(METHOD, {}, "", False)
        call.response = inference(strange, slice(row, row + 1))
        guard.judge([call])
        call.forget()
        assert call.verdict is not None
        done[call.verdict.action] += 1
    assert set(done) == {"flag", "block"}
    samples = [s for f in sink.collect() for s in f.samples if s.name == "tocsin_responses_total"]
    assert {s.labels["decision"]: s.value for s in samples if s.value} == done


def test_versions_beyond_the_bound_fold_into_other(bundle: Path) -> None:
    guard = Guard.open(settings(1, bundle))
    sink = PrometheusSink(guard.models)
    for number in range(200):
        call = Call(METHOD, {}, "", False)
        call.verdict = Verdict("digits", f"v{number}", unscored="shape")
        sink.unscored(call)
    samples = [s for f in sink.collect() for s in f.samples if s.name == "tocsin_responses_total"]
    versions = [s.labels["version"] for s in samples if s.value]
    assert len(versions) == 51 and "other" in versions
    assert {s.labels["version"] for s in samples} == {*versions, ""}


def test_an_unconfigured_address_is_an_address() -> None:
    assert str(Address(path="/x")) == "unix:/x"


def test_nothing_is_lost_between_counting_and_scraping(bundle: Path) -> None:
    import threading

    guard = Guard.open(settings(1, bundle))
    sink = PrometheusSink(guard.models)
    guard.sinks.append(sink)
    answer = inference(safe_traffic(1), slice(0, 1))

    def judge() -> None:
        for _ in range(1_500):
            call = Call(METHOD, {}, "", False)
            call.response = answer
            guard.judge([call])
            sink.added(1e-4)

    threads = [threading.Thread(target=judge) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        list(sink.collect())
    counts: dict[str, float] = defaultdict(float)
    for sample in (sample for family in sink.collect() for sample in family.samples):
        if sample.name.endswith(("_count", "_total")) and sample.labels.get("detector") != "mahalanobis":
            counts[sample.name] += sample.value
    for name in ("tocsin_pvalue_count", "tocsin_added_seconds_count", "tocsin_scoring_seconds_count"):
        assert counts[name] == 6_000
    assert counts["tocsin_score_count"] == counts["tocsin_responses_total"] == 6_000


def test_the_evidence_against_the_promise_stays_small_on_safe_traffic_and_grows_on_other(bundle: Path) -> None:
    def evidence(observations: Observations) -> dict[str, float]:
        guard = Guard.open(settings(1, bundle))
        sink = PrometheusSink(guard.models)
        guard.sinks.append(sink)
        for start in range(0, observations.rows, 50):
            call = Call(METHOD, {}, "", False)
            call.response = inference(observations, slice(start, start + 50))
            guard.judge([call])
        samples = [s for f in sink.collect() for s in f.samples if s.name == "tocsin_promise_log_evalue"]
        return {s.labels["severity"]: s.value for s in samples}

    safe = safe_traffic(1_000, seed=77)
    assert max(evidence(safe).values()) < 4.6
    strange = far_away(300)
    mixed = Observations({name: np.vstack([safe[name], strange[name]]) for name in safe})
    assert min(evidence(mixed).values()) > 4.6
