"""Metrics in Prometheus' delimited protobuf format, which scrapers request for native histograms: text cannot carry
them.

A native histogram has its own buckets, eight for each doubling, and only those that are not empty: it resolves p-values
near 0 and latencies of every size without configured bounds. The classic buckets are sent beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Exemplar

from tocsin.protocols.descriptors import message_class
from tocsin.sinks.families import FAMILIES, Buckets, Sample
from tocsin.sinks.histogram import ZERO_INDEX

CONTENT_TYPE = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
SCHEMA = 3  # 2 ** 3 buckets for each doubling
KINDS = {"counter": 0, "gauge": 1, "histogram": 4, "unknown": 3}

_Family = message_class("prometheus_metrics", "io.prometheus.client.MetricFamily")


def asked_for(accept: str) -> bool:
    """Whether a scrape prefers protobuf."""
    first = accept.partition(",")[0]
    return "application/vnd.google.protobuf" in first and "io.prometheus.client.MetricFamily" in first


def delimited(samples: Iterable[Sample], rest: Iterable[Metric]) -> bytes:
    """Samples, and the client library's families without histograms, as delimited messages."""
    by_family = {family: _family(family.name, family.description, family.kind) for family in FAMILIES}
    for family, labels, value, exemplar in samples:
        into = by_family[family].metric.add()
        _label(into, zip(family.labels, labels, strict=True))
        if isinstance(value, Buckets):
            _histogram(into.histogram, value)
        elif family.kind == "counter":
            into.counter.value = value
            if exemplar is not None:
                _exemplar(into.counter.exemplar, exemplar)
        else:
            into.gauge.value = value
    families = [*by_family.values(), *(_of_library(metric) for metric in rest)]
    return b"".join(_delimited(family.SerializeToString()) for family in families if family.metric)


def _family(name: str, description: str, kind: str) -> Any:
    return _Family(name=f"{name}_total" if kind == "counter" else name, help=description, type=KINDS[kind])


def _of_library(metric: Metric) -> Any:
    kind = metric.type if metric.type in ("counter", "gauge") else "gauge"
    family = _family(metric.name, metric.documentation, kind)
    for sample in metric.samples:
        if sample.name.endswith("_created"):
            continue
        into = family.metric.add()
        _label(into, sample.labels.items())
        getattr(into, kind).value = sample.value
    return family


def _label(into: Any, pairs: Iterable[tuple[str, str]]) -> None:
    for name, value in sorted(pairs):
        into.label.add(name=name, value=value)


def _exemplar(into: Any, exemplar: Exemplar) -> None:
    _label(into, exemplar.labels.items())
    into.value = exemplar.value
    if exemplar.timestamp is not None:
        into.timestamp.FromNanoseconds(int(float(exemplar.timestamp) * 1e9))


def _histogram(into: Any, value: Buckets) -> None:
    into.sample_count, into.sample_sum = value.cumulative[-1], value.total
    for at, count in enumerate(value.cumulative[:-1]):
        bucket = into.bucket.add(cumulative_count=count, upper_bound=float(value.bounds[at]))
        if at in value.exemplars:
            _exemplar(bucket.exemplar, value.exemplars[at])
    if value.native is not None:
        _native(into, value.native)


def _native(into: Any, counts: Mapping[int, int]) -> None:
    """Counts by index. Index i counts values in (2^((i-1)/8), 2^(i/8)], and ZERO_INDEX counts zeros."""
    into.schema, into.zero_threshold, into.zero_count = SCHEMA, 2.0**-128, counts.get(ZERO_INDEX, 0)
    last, before = None, 0
    for index in sorted(counts.keys() - {ZERO_INDEX}):
        if last is None or index != last + 1:
            into.positive_span.add(offset=index if last is None else index - last - 1, length=0)
        into.positive_span[-1].length += 1
        into.positive_delta.append(counts[index] - before)
        last, before = index, counts[index]
    if last is None and not counts.get(ZERO_INDEX):
        into.positive_span.add(offset=0, length=0)  # what tells an empty native histogram from a classic one


def _delimited(message: bytes) -> bytes:
    size, length = len(message), bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return bytes(length) + message
