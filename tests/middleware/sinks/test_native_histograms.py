"""Claims about native histograms, read by a real Prometheus."""

from __future__ import annotations

import gzip
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import yaml
from benchmarks.alerts.stack import Stack
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import INFER, far_away, inference, running, safe_traffic, settings
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from tocsin.sinks.exposition import Exposition
from tocsin.sinks.families import FAMILIES, PVALUE, Family, Sample
from tocsin.sinks.histogram import BUCKETS_PER_DOUBLING, ZERO_INDEX, Histogram
from tocsin.sinks.protobuf import CONTENT_TYPE, _Family, asked_for, delimited

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ACCEPT = f"{CONTENT_TYPE},application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5"


def test_every_value_is_in_the_bucket_whose_bounds_it_lies_in() -> None:
    random = np.random.default_rng(0)
    for values in (random.random(30), random.random(3_000), np.array([0.0, 1.0, 0.5, 2.0**-20, 3e5])):
        histogram = Histogram([0.5], native=True)
        histogram.extend(values.tolist())
        native = histogram.buckets()[0].native
        assert native is not None and sum(native.values()) == len(values)
        expected = [
            ZERO_INDEX if v <= 0 else next(i for i in range(-900, 900) if v <= 2 ** (i / BUCKETS_PER_DOUBLING))
            for v in values
        ]
        assert native == {index: expected.count(index) for index in set(expected)}


def test_what_is_shown_stays_as_it_is_when_counting_goes_on() -> None:
    histogram = Histogram([0.5], native=True)
    histogram.add(0.1)
    shown = histogram.buckets()[0]
    histogram.add(0.9)
    assert histogram.buckets()[0].cumulative == [1, 2]
    assert shown.cumulative == [1, 1] and shown.native is not None and sum(shown.native.values()) == 1


def test_protobuf_is_compressed_when_asked() -> None:
    class Nothing:
        def blocks(self, *, openmetrics: bool) -> list[dict[Family, str]]:
            return []

        def samples(self) -> list[Sample]:
            return []

    registry = CollectorRegistry(auto_describe=False)
    registry.register(GaugeOfOne())
    plain = Exposition(Nothing(), registry).answer(ACCEPT, "")
    headers, packed = Exposition(Nothing(), registry).answer(ACCEPT, "gzip")
    assert plain[0] == [("Content-Type", CONTENT_TYPE)] and ("Content-Encoding", "gzip") in headers
    assert gzip.decompress(packed) == plain[1] != b""


class GaugeOfOne(Collector):
    def collect(self) -> list[Metric]:
        return [GaugeMetricFamily("one", "One.", 1)]


def test_another_processes_counts_are_added() -> None:
    first, second = Histogram([0.5], native=True), Histogram([0.5], native=True)
    first.extend([0.1, 0.2])
    second.extend([0.2, 0.0])
    first.merge(second.take_delta())
    assert first.buckets()[0].native is not None and sum(first.buckets()[0].native.values()) == 4
    assert second.buckets()[0].native == {}


def test_protobuf_is_sent_when_it_is_liked_best_and_holds_everything() -> None:
    assert asked_for(ACCEPT) and not asked_for(ACCEPT.partition(",")[2]) and not asked_for("")
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    histogram = Histogram([0.1, 0.5], native=True)
    histogram.extend([0.01, 0.2, 0.9])
    content, names = delimited([Sample(PVALUE, ("m",), histogram.buckets()[0])], registry.collect()), []
    at = 0
    while at < len(content):  # varint, message
        size, shift = 0, 0
        while True:
            size |= (content[at] & 0x7F) << shift
            shift, at = shift + 7, at + 1
            if content[at - 1] < 0x80:
                break
        family = _Family.FromString(content[at : at + size])
        at += size
        names.append(family.name)
        if family.name == "tocsin_pvalue":
            native = family.metric[0].histogram
            assert [bucket.cumulative_count for bucket in native.bucket] == [1, 2]
            assert np.cumsum(native.positive_delta).sum() == native.sample_count == 3
            assert sum(span.length for span in native.positive_span) == 3
    assert "tocsin_pvalue" in names and "process_cpu_seconds_total" in names


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("native")
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": []}))
    safe = safe_traffic(400, seed=4)
    with model_server() as (server, address), running(settings(address, bundle)) as relay:
        server.answers = {b"%d" % row: inference(safe, slice(row, row + 1)) for row in range(400)}
        server.answers[b"far"] = inference(far_away(1), slice(0, 1))
        assert relay.sidecar.http is not None
        native = ["--enable-feature=native-histograms,exemplar-storage"]
        with Stack(folder, folder / "rules.yaml", relay.sidecar.http.address.port, options=native) as stack:
            with grpc.insecure_channel(relay.target) as channel:
                for row in range(400):
                    channel.unary_unary(INFER)(b"%d" % row, metadata=(("traceparent", TRACE),), timeout=60)
                channel.unary_unary(INFER)(b"far", metadata=(("traceparent", TRACE),), timeout=60)
            time.sleep(1)
            stack.until_scraped()
            yield stack


def test_a_prometheus_that_wants_them_gets_native_histograms(watched: Stack) -> None:
    (count,) = watched.query("histogram_count(tocsin_pvalue)")
    assert float(count["value"][1]) == 401
    (quantile,) = watched.query("histogram_quantile(0.5, tocsin_pvalue)")
    assert 0.4 < float(quantile["value"][1]) < 0.6  # even, on safe traffic
    (near_zero,) = watched.query("histogram_quantile(0.001, tocsin_pvalue)")
    assert 0.001 < float(near_zero["value"][1]) < 0.005  # finer there than any classic bucket
    for metric in ("tocsin_scoring_seconds", "tocsin_added_seconds"):
        assert float(watched.query(f"histogram_count({metric})")[0]["value"][1]) == 401


def test_everything_else_is_there_too(watched: Stack) -> None:
    for family in FAMILIES:
        if family.name in ("tocsin_responses", "tocsin_promised", "tocsin_alarms"):
            assert watched.query(f"{family.name}_total")
        elif family.kind == "gauge" and family.name not in (
            "tocsin_level",
            "tocsin_bundle_calibrated_timestamp_seconds",
            "tocsin_inputs_log_evalue",  # where a bundle watches inputs
            "tocsin_group_log_evalue",  # where it makes promises for groups
        ):
            assert watched.query(family.name), family.name
    for name in ("process_cpu_seconds_total", "tocsin_relay_calls_total", "tocsin_relay_connections"):
        assert watched.query(name), name
    assert watched.query("tocsin_score_bucket")  # classic where it is not native
