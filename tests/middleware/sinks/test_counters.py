"""Claims about counters: those whose labels are known are there from the start, so that no burst goes unseen."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import (
    INFER,
    METHOD,
    SIGNALS,
    far_away,
    inference,
    quick_bundle,
    running,
    safe_traffic,
    settings,
)
from benchmarks.harness.served import grouped, in_sessions, weighed
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tocsin.judgement.call import Call
from tocsin.judgement.guard import Guard
from tocsin.sinks.exposition import Exposition
from tocsin.sinks.prometheus import PrometheusSink
from tocsin.unscored import REASONS

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scraped(sink: PrometheusSink) -> Series:
    """Every counter's series, as the text of a scrape has them."""
    _, text = Exposition(sink, CollectorRegistry()).answer("", "")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse_text(text.decode())
        for sample in family.samples
        if family.type == "counter"
    }


def labels(series: Series, name: str, *wanted: str) -> set[tuple[str, ...]]:
    return {
        tuple(dict(pairs)[label] for label in wanted) for series_name, pairs in series if series_name == f"{name}_total"
    }


def guarded(folder: Path, make: Callable[[Path], Path], **more: Any) -> tuple[Guard, PrometheusSink]:
    model = {"bundle": make(folder / "b.tocsin"), "signals": SIGNALS, **more}
    guard = Guard.open(settings(1, None, mode="enforce", models={"digits": model}))
    sink = PrometheusSink(guard.models)
    guard.sinks.append(sink)
    return guard, sink


def plain(path: Path) -> Path:
    quick_bundle(path)
    return path


def judge(guard: Guard, responses: list[bytes], **metadata: str) -> None:
    for response in responses:
        call = guard.call(INFER, {name.replace("_", "-"): value for name, value in metadata.items()})
        assert call is not None
        piece = call.on_response_message(response)
        assert piece is not None
        guard.judge([piece])


STRANGE = [
    *(inference(far_away(1), slice(0, 1)) for _ in range(3)),
    *(inference(safe_traffic(9), slice(row, row + 1)) for row in range(9)),
    b"\xff\xff",
    inference(safe_traffic(1), slice(0, 1), model="another"),
]
ACTING = {
    "on_alarm": {"warning": "retry", "critical": {"action": "block", "share": 0.5}},
    "retry": {"otherwise": "abstain"},
}


@pytest.mark.parametrize(
    ("make", "more"),
    [
        (plain, {}),
        (plain, ACTING),
        (grouped, {"group": "metadata.x-group"}),
        (in_sessions, {"session": "metadata.x-session"}),
        (weighed, {"risk": {"wrong_costs": 0.5, "review_costs": 0.3}}),
    ],
    ids=["plain", "acting", "groups", "sessions", "risk"],
)
def test_what_is_counted_was_there_with_0_before(
    tmp_path: Path, make: Callable[[Path], Path], more: dict[str, Any]
) -> None:
    guard, sink = guarded(tmp_path, make, **more)
    before = scraped(sink)
    assert set(before.values()) == {0}
    judge(guard, STRANGE)
    judge(guard, STRANGE, x_session="s", x_group="calm")
    after = scraped(sink)
    grown = {key for key, value in after.items() if value}
    assert len(grown) > 5
    versions = {pairs for name, pairs in grown if ("version", "v1") in pairs}
    assert {pairs for name, pairs in grown - before.keys()} <= versions  # a version is not known before


def test_a_version_brings_all_it_may_count_and_what_tells_none_was_there(tmp_path: Path) -> None:
    guard, sink = guarded(tmp_path, plain)
    judge(guard, [inference(safe_traffic(1), slice(0, 1))])
    first = scraped(sink)
    judge(guard, STRANGE)
    second = scraped(sink)
    assert {key for key, value in second.items() if value} <= first.keys()
    assert labels(first, "tocsin_alarms", "version", "severity") == set(
        itertools.product(("", "v1"), ("warning", "critical"))
    )


def test_reasons_actions_and_candidates_are_all_there(tmp_path: Path) -> None:
    candidate = quick_bundle(tmp_path / "c.tocsin", rule="all") and tmp_path / "c.tocsin"
    _, sink = guarded(tmp_path, plain, shadow=candidate, **ACTING)
    there = scraped(sink)
    reasons = labels(there, "tocsin_unscored", "model", "reason")
    assert {reason for _, reason in reasons} == set(REASONS)
    assert ("other", "unknown_model") in reasons and ("digits", "late") in reasons
    actions = {"flag", "retry", "abstain", "block", "refused"}
    assert labels(there, "tocsin_actions", "action") == {(action,) for action in actions}
    severities = ("critical", "warning", "none")
    pairs = set(itertools.product((*severities, "failed"), severities))
    assert labels(there, "tocsin_shadow_responses", "severity", "live") == pairs


def test_a_new_bundle_and_new_actions_are_there_after_a_reload(tmp_path: Path) -> None:
    guard, sink = guarded(tmp_path, plain)
    judge(guard, STRANGE)
    had = scraped(sink)
    (tmp_path / "new").mkdir()
    other, _ = guarded(tmp_path / "new", in_sessions, session="metadata.x-session", **ACTING)
    sink.follow(other.models)
    there = scraped(sink)
    assert labels(there, "tocsin_sessions", "severity") == {("critical",), ("warning",), ("none",)}
    assert labels(there, "tocsin_actions", "action") >= {("block",), ("retry",), ("refused",)}
    assert there[("tocsin_unscored_total", (("model", "digits"), ("reason", "undecodable")))] == 1
    assert {key: there[key] for key in had if key[0].startswith("tocsin_alarms")} == {
        key: value for key, value in had.items() if key[0].startswith("tocsin_alarms")
    }


def test_counters_of_workers_add_up_and_are_there_from_the_start(tmp_path: Path) -> None:
    guard, worker = guarded(tmp_path, plain)
    supervisor = PrometheusSink(guard.models)
    there = scraped(supervisor)
    judge(guard, STRANGE)
    for _ in range(2):
        supervisor.merge(worker.take_delta())
    judge(guard, STRANGE)
    supervisor.merge(worker.take_delta())
    both, alone = scraped(supervisor), {}
    fresh, sink = guarded(tmp_path, plain)
    judge(fresh, STRANGE + STRANGE)
    alone = scraped(sink)
    assert both == alone and there.keys() <= both.keys()


def test_the_number_of_series_is_bounded(tmp_path: Path) -> None:
    guard, sink = guarded(tmp_path, plain, **ACTING)
    at_first = len(scraped(sink))
    for version in range(500):
        call = Call(METHOD, {}, "", False)
        call.response = inference(safe_traffic(1), slice(0, 1)).replace(b"v1", b"%02d" % (version % 100))
        guard.judge([call])
    a_version = 2 + 2 * 6 + 1  # alarms by severity; by method, what may be done; evidence of a change
    assert at_first < 64 and len(scraped(sink)) <= at_first + 51 * a_version


# -- exemplars

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
NO_TRACES = [
    '"' * 32, "\\" * 32, 'a"} 1 2' + "b" * 25, "0" * 32, TRACE.upper(), "g" * 32, " " * 32, "0x" + TRACE[2:],
    "+" + TRACE[1:], TRACE[:15] + "_" + TRACE[16:], TRACE[:31] + "\n", TRACE[:31] + "\u0661",
]  # fmt: skip


@pytest.mark.parametrize("trace", [TRACE, *NO_TRACES])
def test_only_a_trace_id_of_hex_digits_becomes_an_exemplar(bundle: Path, trace: str) -> None:
    guard = Guard.open(settings(1, bundle))
    sink = PrometheusSink(guard.models)
    guard.sinks.append(sink)
    judge(guard, [inference(far_away(1), slice(0, 1))], traceparent=f"00-{trace}-{SPAN}-01")
    _, text = Exposition(sink, CollectorRegistry()).answer("application/openmetrics-text;version=1.0.0", "")
    exemplars = [s.exemplar.labels for f in parse_openmetrics(text.decode()) for s in f.samples if s.exemplar]
    assert exemplars == ([{"trace_id": TRACE}] * len(exemplars)) and bool(exemplars) == (trace == TRACE)


@pytest.mark.parametrize(
    "parent", ["", "00", f"00-{TRACE}", f"00_{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}_01", "-" * 55]
)
def test_what_is_no_traceparent_is_none(bundle: Path, parent: str) -> None:
    call = Guard.open(settings(1, bundle)).call(INFER, {"traceparent": parent})
    assert call is not None and call.trace == ""


def test_a_burst_between_two_scrapes_is_an_increase(bundle: Path) -> None:
    """200 responses that nothing judges, between the first scrape and the second."""
    with model_server() as (model, address), running(settings(address, bundle)) as relay:
        model.answers = {b"x": inference(safe_traffic(1), slice(0, 1)).replace(b"probs", b"props")}
        line = re.compile(r'^tocsin_unscored_total\{model="digits",reason="missing_signal"\} (\d+)', re.M)
        first = line.search(relay.metrics)
        with grpc.insecure_channel(relay.target) as channel:
            for _ in range(200):
                channel.unary_unary(INFER)(b"x", timeout=60)
        second = line.search(relay.metrics)
    assert first is not None and second is not None
    assert (int(first[1]), int(second[1])) == (0, 200)


def test_a_bundle_without_a_promise_for_it_counts_no_keys(tmp_path: Path) -> None:
    _, sink = guarded(tmp_path, plain, session="metadata.x-session")
    assert labels(scraped(sink), "tocsin_keyless_calls", "key") == set()
