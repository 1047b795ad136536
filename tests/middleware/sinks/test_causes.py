"""Claims about causes while traffic flows: which part has changed is named, since when, and counts are not misread."""

from __future__ import annotations

import io
import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from benchmarks.harness.parts import INFER, inference, running, safe_traffic, settings
from benchmarks.harness.redis_server import RedisServer, redis_server
from prometheus_client.parser import text_string_to_metric_families as parse_text
from rich.console import Console
from tests.middleware.replay.test_replay import joined, recorded, run

from tocsin.configuration.state import StateConfig
from tocsin.events.alertmanager import alerts
from tocsin.judgement.guard import Guard
from tocsin.page.terminal import picture
from tocsin.replay.replay import tally_of
from tocsin.sinks.causes import OTHER, VERSIONS, Causes
from tocsin.sinks.evidence import Evidence
from tocsin.sinks.group_numbers import NO_GROUP, GroupNumbers
from tocsin.sinks.prometheus import PARTS_EVERY, PrometheusSink
from tocsin.state.redis_connection import RedisConnection
from tocsin.state.redis_counts import SharedCounts
from tocsin_calibration import DriftWatch, Promise, calibrate
from tocsin_detectors import Observations

LIMIT = np.log(100)
START = 1_764_000_000.0


def moved(rows: int, seed: int, by: float = 1.0) -> Observations:
    """Safe traffic whose embedding alone has moved."""
    safe = safe_traffic(rows, seed)
    return Observations({"probs": safe["probs"], "embedding": safe["embedding"] + by})


def grouped() -> Promise:
    scores = np.random.default_rng(0).normal(size=(3_000, 3))
    return calibrate(scores, groups=[("eu", "us", "asia")[row % 3] for row in range(3_000)], detectors=("a", "b", "c"))


def tell(evidence: Evidence, promise: Promise, scores: Any, groups: Any = None, versions: Any = None) -> None:
    judged = promise.judge(scores, groups)
    evidence.read(tally_of(promise, judged.severities, groups, judged.joint, scores, versions))


def judge(guard: Guard, observations: Observations, *, batch: int = 20) -> None:
    for start in range(0, observations.rows, batch):
        call = guard.call(INFER, {})
        assert call is not None
        judged = call.on_response_message(inference(observations, slice(start, start + batch)))
        assert judged is not None
        guard.judge([judged])


@pytest.fixture
def watched(bundle: Path) -> tuple[Guard, PrometheusSink]:
    guard = Guard.open(settings(1, bundle))
    sink = PrometheusSink(guard.models)
    guard.sinks.append(sink)
    return guard, sink


# -- what is named


def test_the_detector_that_changed_is_named_and_the_time_at_which_it_did(watched: tuple[Guard, PrometheusSink]) -> None:
    guard, sink = watched
    judge(guard, safe_traffic(2_000, seed=5))
    assert sink.figures()["digits"]["finding"] is None
    before = time.time()
    judge(guard, moved(200, seed=6))
    figures = sink.figures()["digits"]
    finding = figures["finding"]
    (cause,) = finding["causes"]
    assert (cause["kind"], cause["name"]) == ("detector", "mahalanobis")
    assert cause["since"]["direction"] > 0.1 and abs(cause["since"]["after"] - 2_000) < 40
    assert abs(finding["since"]["after"] - 2_000) < 40 and finding["since"]["when"] <= time.time()
    assert finding["since"]["when"] > before - 60
    assert finding["words"][1].startswith("detector mahalanobis: scores are higher (evidence e^")
    latest = sink.finding("digits")
    assert latest is not None and latest.drifted and sink.findings() == {"digits": latest}
    judge(guard, safe_traffic(6_000, seed=7), batch=100)  # as before: the evidence falls, and nothing is named
    assert sink.figures()["digits"]["causes"][0]["log_evalue"] < figures["causes"][0]["log_evalue"]


def test_a_group_or_a_version_that_changed_is_named_and_the_others_are_not() -> None:
    promise, random = grouped(), np.random.default_rng(1)
    for part in ("group", "version"):
        now = START
        evidence = Evidence(promise, 1_000, fixed=True, seed=1, clock=lambda: now)  # noqa: B023
        for number in range(60):
            now += 60.0
            scores = random.normal(size=(90, 3))
            groups = [("eu", "us", "asia")[row % 3] for row in range(90)]
            versions = ["v2" if number >= 20 and row % 4 == 0 else "v1" for row in range(90)]
            wrong = np.array(groups if part == "group" else versions) == ("us" if part == "group" else "v2")
            scores[wrong & (number >= 40)] += 1.0
            tell(evidence, promise, scores, groups, versions)
        causes = evidence.causes()
        named = {(cause.kind, cause.name) for cause in causes if cause.log_evalue > LIMIT and cause.kind == part}
        assert named == {(part, "us" if part == "group" else "v2")}
        chief = evidence.looked_into(next(cause for cause in causes if cause.kind == part))
        assert chief.change is not None and abs(chief.change.when - (START + 40 * 60)) < 3 * 60
        assert {cause.kind for cause in causes} == {"detector", "group", "version"}


def test_rows_of_many_groups_give_the_same_evidence_one_by_one_and_all_at_once() -> None:
    promise, random = grouped(), np.random.default_rng(4)
    scores = random.normal(size=(600, 3)) + np.linspace(0, 1, 600)[:, None]
    groups = [("eu", "us", "nobody", "asia")[number] for number in random.integers(0, 4, 600)]
    by_row, at_once = (Evidence(promise, 1_000, fixed=True, seed=1) for _ in range(2))
    for row in range(600):
        tell(by_row, promise, scores[row : row + 1], groups[row : row + 1])
        if row % 7 == 0:
            by_row.promise()
    tell(at_once, promise, scores, groups)
    assert by_row.counts() == at_once.counts() and by_row.counts_by_cause() == at_once.counts_by_cause()
    assert by_row.by_group() == at_once.by_group()
    causes = {(cause.kind, cause.name): cause.log_evalue for cause in at_once.causes()}
    by_row._causes._weighed = None  # type: ignore[union-attr]
    assert {(cause.kind, cause.name): cause.log_evalue for cause in by_row.causes()} == causes
    joint = promise.joint(scores)
    for name in promise.groups:
        alone = DriftWatch(promise.groups[name].ordered, directed=True)
        alone.add(joint[np.array(groups) == name])
        assert alone.watch.counts == at_once._causes._watches["group", name].watch.counts  # type: ignore[union-attr]
    responses = {group.name: group.responses for group in at_once.by_group()}
    assert responses == {name: groups.count(name) for name in responses}


def test_numbers_of_groups_follow_their_order_and_any_other_has_none() -> None:
    numbers = GroupNumbers(["b", "a"])
    assert numbers.of(["a", "c", "b", "a"]).tolist() == [1, NO_GROUP, 0, 1]
    assert numbers.rows(numbers.of(["a", "c", "b", "a"])) == {"b": 1, "a": 2} and len(numbers) == 2
    assert numbers.rows(numbers.of([])) == {} and GroupNumbers([]).rows(numbers.of(["c"])) == {}
    many = GroupNumbers(map(str, range(1 << 16)))
    assert many.of(["65535", "65536"]).tolist() == [65_535, NO_GROUP]


def test_one_version_alone_is_no_cause_and_many_are_bounded() -> None:
    promise = calibrate(np.random.default_rng(0).normal(size=(900, 2)))
    evidence = Evidence(promise, 1_000, fixed=True, seed=1)
    scores = np.random.default_rng(1).normal(size=(60, 2))
    tell(evidence, promise, scores, versions=["v1"] * 60)
    assert {cause.kind for cause in evidence.causes()} == {"detector"}
    tell(evidence, promise, scores, versions=[f"v{row}" * 60 for row in range(60)])
    names = [cause.name for cause in evidence.causes() if cause.kind == "version"]
    assert len(names) == VERSIONS + 1 and OTHER in names and max(map(len, names)) == 100


def test_weights_never_exceed_the_level() -> None:
    promise = grouped()
    causes = Causes(promise, 1_000, START, 1)
    for number in range(30):
        eu = GroupNumbers(promise.groups).of(["eu"])
        causes.add(np.zeros((1, 3)), np.zeros(1), [(f"v{number}", 1)], eu, START)
    weights = [causes._weight(key) for key in causes._watches]
    assert sum(weights) < 1 and min(weights) > 0


def test_groups_without_a_promise_are_one_and_those_beyond_the_bound_are_none() -> None:
    random = np.random.default_rng(2)
    names = [f"g{row % 70}" for row in range(7_000)] + ["small"] * 20 + ["tiny"] * 80
    promise = calibrate(random.normal(size=(7_100, 1)), {"warning": 0.1}, groups=names)
    assert len(promise.groups) > 64
    causes = Causes(promise, 1_000, START, 1)
    watched = {name for kind, name in causes._watches if kind == "group"}
    assert len(watched) in (64, 65)
    beyond = next(name for name in promise.groups if name not in watched)
    numbers = GroupNumbers(promise.groups).of([beyond, "nobody", next(iter(watched))])
    causes.add(np.zeros((3, 1)), np.zeros(3), [("", 3)], numbers, START)
    causes.counts()  # those that wait as well
    rows = {name: watch.watch.responses for (kind, name), watch in causes._watches.items() if kind == "group"}
    assert sum(rows.values()) == 1 + ("" in rows)


def test_sessions_and_other_traffic_have_no_causes_but_a_time(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    promise = calibrate(random.normal(size=(900, 2)), weights=np.ones(900))
    now = START
    evidence = Evidence(promise, 1_000, fixed=True, clock=lambda: now)
    for number in range(40):
        now += 1.0
        tell(evidence, promise, random.normal(size=(50, 2)) + (1.0 if number >= 30 else 0.0))
        evidence.promise()
    change = evidence.change()
    assert evidence.causes() == [] and change is not None
    assert abs(change.when - (START + 30)) <= 3 and change.direction > 0 and evidence.counts_by_cause() == {}


# -- where it is shown


def test_metrics_bound_their_labels_and_say_when(watched: tuple[Guard, PrometheusSink]) -> None:
    guard, sink = watched
    samples = {
        (sample.name, *sample.labels.values()): sample.value for family in sink.collect() for sample in family.samples
    }
    assert samples["tocsin_change_timestamp_seconds", "digits"] == 0
    judge(guard, moved(200, seed=6))
    samples = {
        (sample.name, *sample.labels.values()): sample.value for family in sink.collect() for sample in family.samples
    }
    assert samples["tocsin_cause_log_evalue", "digits", "detector", "mahalanobis"] > LIMIT
    assert samples["tocsin_cause_log_evalue", "digits", "detector", "entropy"] < LIMIT
    assert samples["tocsin_change_timestamp_seconds", "digits"] == pytest.approx(time.time(), abs=300)


def test_what_workers_count_is_what_one_process_counts(bundle: Path) -> None:
    sinks = []
    for _ in range(2):
        guard = Guard.open(settings(1, bundle))
        sinks.append((guard, PrometheusSink(guard.models)))
        guard.sinks.append(sinks[-1][1])
    (guard, alone), (other, supervisor) = sinks
    for part in (safe_traffic(700, seed=8), moved(150, seed=9)):  # more than one fold between two reports
        judge(guard, part)
        worker = PrometheusSink(other.models, sends_counts=True)
        other.sinks[:] = [worker]
        judge(other, part)
        supervisor.merge(json.loads(json.dumps(worker.take_delta())))
    causes = [sink.figures()["digits"]["causes"] for sink in (alone, supervisor)]
    assert causes[0] and [c["log_evalue"] for c in causes[0]] == pytest.approx([c["log_evalue"] for c in causes[1]])


def test_page_and_terminal_name_it(bundle: Path) -> None:
    with running(settings(1, bundle)) as relay:
        judge(relay.sidecar.relay.context.guard, moved(200, seed=6))
        assert relay.sidecar.http is not None
        with urllib.request.urlopen(f"http://{relay.sidecar.http.address}/snapshot") as answer:
            snapshot = json.load(answer)
        names = {f.name for f in parse_text(relay.metrics)}
    (model,) = snapshot["models"]
    assert [cause["name"] for cause in model["finding"]["causes"]] == ["mahalanobis"]
    assert {"tocsin_cause_log_evalue", "tocsin_change_timestamp_seconds"} <= names
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(picture(snapshot, []))
    text = console.export_text()
    assert "detector mahalanobis: scores are higher" in text and "changed about 20" in text
    del model["finding"]  # an older tocsin's
    console.print(picture(snapshot, []))


def test_a_replay_says_which_and_since_when(bundle: Path, tmp_path: Path) -> None:
    traffic = joined(safe_traffic(1_500, seed=5), moved(300, seed=6))
    versions = ["v1"] * 1_500 + ["v1", "v2"] * 150
    recording = recorded(tmp_path / "t.parquet", traffic, version=versions)
    text = run("replay", recording, bundle, "--json", tmp_path / "out.json", "--html", tmp_path / "out.html")
    finding = json.loads((tmp_path / "out.json").read_text())["finding"]
    detectors = [cause["name"] for cause in finding["causes"] if cause["kind"] == "detector"]
    assert detectors == ["mahalanobis"] and "when" not in finding["since"]
    assert abs(finding["since"]["after"] - 1_500) < 40
    assert {cause["name"] for cause in finding["causes"] if cause["kind"] == "version"} == {"v1", "v2"}
    assert "Detector mahalanobis: scores are higher" in text and "It changed about at 1,4" in text.replace("1,5", "1,4")
    assert "2026-11-01 00:2" in text and "Detector mahalanobis" in (tmp_path / "out.html").read_text()


def test_alarms_and_evidence_events_carry_it_and_explain_says_it(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    events = {"to": [{"file": path}, {"log": "info"}], "evidence": True, "repeat": "1s", "burst": 10_000}
    with running(settings(1, bundle, events=events)) as relay:
        judge(relay.sidecar.relay.context.guard, moved(200, seed=6), batch=1)
        event = _until(path, "tocsin.evidence.v1")
        judge(relay.sidecar.relay.context.guard, moved(20, seed=9, by=9.0), batch=1)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["type"] for line in lines].count("tocsin.evidence.v1") == 1
    assert event["data"]["causes"][0]["name"] == "mahalanobis" and event["data"]["model"] == "digits"
    assert event["data"]["drifted"] and event["data"]["reasons"]
    text = run("explain", event["id"], bundle, "--events", path)
    assert "detector mahalanobis: scores are higher" in text and "evidence of digits" in text
    alarms = [line for line in lines if line["type"] == "tocsin.alarm.v1"]
    assert "evidence" not in alarms[0]["data"] and alarms[-1]["data"]["evidence"]["causes"]
    text = run("explain", alarms[-1]["id"], bundle, "--events", path)
    assert "by then, evidence: detector mahalanobis: scores are higher" in text
    (alert,) = alerts(event, 300)
    assert alert["labels"]["alertname"] == "TocsinEvidence" and "mahalanobis" in alert["annotations"]["description"]


def test_nothing_is_told_of_evidence_unless_asked_for_nor_with_workers(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with running(settings(1, bundle, events={"to": [{"file": path}]})) as relay:
        judge(relay.sidecar.relay.context.guard, moved(200, seed=6), batch=1)
        relay.sidecar.events._report_findings()
    assert "tocsin.evidence.v1" not in path.read_text()
    with pytest.raises(ValueError, match=r"events\.evidence"):
        settings(1, bundle, workers=2, events={"to": [{"file": path}], "evidence": True})


# -- replicas


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as redis:
        yield redis


@pytest.fixture
def exchange(server: RedisServer) -> Iterator[Any]:
    redis.Redis.from_url(server.url).flushall()
    connections = []

    def shared() -> SharedCounts:
        connections.append(RedisConnection(StateConfig(redis=server.url, timeout="20s")))  # type: ignore[arg-type]
        return SharedCounts(connections[-1], "test")

    yield shared
    for connection in connections:
        connection.close()


def test_replicas_add_what_they_count_of_every_part_and_older_ones_the_rest(bundle: Path, exchange: Any) -> None:
    guards, sinks, shared = [], [], [exchange(), exchange(), exchange()]
    for _ in range(2):
        guards.append(Guard.open(settings(1, bundle)))
        sinks.append(PrometheusSink(guards[-1].models))
        guards[-1].sinks.append(sinks[-1])
    judge(guards[0], safe_traffic(300, seed=8))
    judge(guards[1], moved(60, seed=9))
    for _ in range(PARTS_EVERY + 1):  # and counts once, although most exchanges leave the parts out
        for sink, each in zip(sinks, shared, strict=False):
            sink.exchange(each.exchange)
    first, second = (sink.figures()["digits"] for sink in sinks)
    assert first["causes"][0]["name"] == "mahalanobis"
    assert [c["log_evalue"] for c in first["causes"]] == pytest.approx([c["log_evalue"] for c in second["causes"]])
    rows = {
        sum(causes.counts()["causes"]) for causes in (sink._series["digits"].judged.evidence._causes for sink in sinks)
    }
    assert rows == {2 * 360}  # of two detectors
    # An older replica knows the counts of the whole alone, under the same name, and shares these.
    key = f"digits:{guards[0].models['digits'].digests[0]}"
    ours = sinks[0]._series["digits"].judged.evidence
    assert ours is not None
    assert shared[2].exchange({key: [0] * len(ours.counts())})[key] == ours.counts()


def test_counts_of_another_length_are_not_read_as_ours(exchange: Any) -> None:
    promise = calibrate(np.random.default_rng(0).normal(size=(900, 2)))
    evidence = Evidence(promise, 1_000, fixed=True, seed=1)
    tell(evidence, promise, np.random.default_rng(1).normal(size=(60, 2)))
    ours, theirs = exchange(), exchange()
    counts = {f"m:{part}": counts for part, counts in evidence.counts_by_cause().items()}
    ours.exchange(counts)
    assert theirs.exchange({"m:causes": [0] * 20}) == {}
    assert theirs.exchange({"m:causes": [0] * len(counts["m:causes"])}) == {"m:causes": counts["m:causes"]}


def _until(path: Path, kind: str) -> dict[str, Any]:
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        lines = path.read_text().splitlines() if path.exists() else []
        if latest := next((event for line in lines if (event := json.loads(line))["type"] == kind), None):
            return dict(latest)
        time.sleep(0.05)
    raise AssertionError(f"no event of {kind} came")
