"""Claims about promises on the way: groups, sessions, and what answers are worth."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from benchmarks.harness.parts import INFER, inference, quick_bundle
from benchmarks.harness.served import SAFE, ask, by_class, grouped, in_sessions, metric, model, served, weighed
from prometheus_client import CollectorRegistry, generate_latest
from typer.testing import CliRunner

import tocsin
from tocsin.cli.main import app
from tocsin.configuration.config import Config
from tocsin.judgement.guard import Guard
from tocsin.judgement.sink import Scored
from tocsin.sinks.evidence import Evidence
from tocsin.sinks.finding import Finding
from tocsin.sinks.prometheus import PrometheusSink
from tocsin.state.memory import MemorySessions
from tocsin_calibration import (
    Bundle,
    SessionRule,
    Window,
    calibrate,
)
from tocsin_detectors import Observations


def test_each_group_is_judged_by_its_own_threshold(tmp_path: Path) -> None:
    bundle = grouped(tmp_path / "g.tocsin")
    promise = Bundle.read(bundle).require_promise()
    with served(bundle, group="metadata.x-tenant") as relay:
        verdicts_by_group = {
            name: [ask(relay, b"%d" % row, ("x-tenant", name)) for row in range(30)] for name in ("calm", "wild")
        }
        stranger = ask(relay, b"3", ("x-tenant", "nobody"))
    scores = Bundle.read(bundle).scorer(SAFE.take(slice(0, 30)))
    for name, verdicts in verdicts_by_group.items():
        expected = promise.judge(scores, [name] * 30)
        assert [v.pvalues[0] for v in verdicts] == pytest.approx(expected.pvalues, rel=1e-4)
        assert [v.severity for v in verdicts] == expected.severities
    assert any(
        c.pvalues != w.pvalues for c, w in zip(verdicts_by_group["calm"], verdicts_by_group["wild"], strict=True)
    )
    assert stranger.pvalues[0] == pytest.approx(promise.judge(scores[3:4]).pvalues[0], rel=1e-4)


@pytest.mark.parametrize("signal", ["probs", "label"])
def test_a_response_is_judged_by_the_class_that_it_names(tmp_path: Path, signal: str) -> None:
    """By what detectors read, or by a label that they do not; each row of a response by its own."""
    bundle = Bundle.read(by_class(tmp_path / "c.tocsin", signal))
    promise, rows = bundle.require_promise(), 60
    shown = {**SAFE.take(slice(0, rows)), "label": np.arange(rows, dtype=np.float32)[:, None] % 2}
    content = model(tmp_path / "c.tocsin")
    content["models"]["digits"]["signals"]["label"] = "response.outputs.label"
    guard, registry = Guard.open(Config(**content)), CollectorRegistry()
    sink = PrometheusSink(guard.models)
    registry.register(sink)
    guard.sinks.append(sink)
    calls = []
    for part in (slice(0, 40), slice(40, rows)):
        call = guard.call(INFER, {})
        assert call is not None
        call.response = inference(Observations(shown), part)
        calls.append(call)
    guard.judge(calls)
    metrics = generate_latest(registry).decode()
    scores = bundle.scorer(SAFE.take(slice(0, rows)))
    classes = promise.classes
    assert classes is not None
    names = classes.of(shown[signal])
    expected = promise.judge(scores, names)
    verdicts = [call.verdict for call in calls if call.verdict is not None]
    assert [p for verdict in verdicts for p in verdict.pvalues] == pytest.approx(expected.pvalues, rel=1e-4)
    assert [s for verdict in verdicts for s in verdict.severities] == expected.severities
    assert len(set(promise.groups)) > 1 and expected.pvalues != promise.judge(scores).pvalues
    for name in promise.groups:
        assert f'tocsin_group_responses_total{{group="{name}",model="digits"}} {names.count(name)}.0' in metrics
    assert 'tocsin_group_log_evalue{group="' in metrics and 'key="group"' not in metrics


def test_a_class_that_breaks_its_promise_is_named(tmp_path: Path) -> None:
    promise = Bundle.read(by_class(tmp_path / "c.tocsin")).require_promise()
    evidence = Evidence(promise, 1_000, fixed=True, seed=0)
    guilty, innocent = list(promise.groups)[:2]
    for _ in range(20):
        evidence.read({"rows": 200, "alarmed": [[guilty, "warning", 50], [innocent, "warning", 5]],
                       "of_group": {guilty: 100, innocent: 100}, "joint": [], "sequence": []})  # fmt: skip
    finding = Finding.of(evidence, evidence.promise(), None, (), (4.6, 4.6), "responses")
    assert finding is not None and finding.groups == (guilty,)
    assert f"more alarms than promised in group {guilty}" in finding.text
    counted = {group.name: (group.responses, group.alarms) for group in evidence.by_group()}
    assert counted[guilty] == (2_000, {"warning": 1_000}) and counted[innocent] == (2_000, {"warning": 100})


def test_evidence_is_gathered_for_what_is_promised_and_for_nothing_else() -> None:
    """Rows of groups without a promise count for nothing; those of small groups together against their own."""
    random = np.random.default_rng(1)
    scores, rest = random.normal(size=(3_000, 1)), random.normal(size=(300, 1)) * 2
    for small, watched in ((5, False), (300, True)):
        groups = ["big"] * 3_000 + [f"tenant {row % 50}" for row in range(small)]
        promise = calibrate(np.vstack([scores, rest[:small]]), {"warning": 0.05}, groups=groups)
        evidence = Evidence(promise, 1_000, fixed=True, seed=0)
        assert len(evidence.counts()) == 2 * (1 + watched) + 20
        for _ in range(20):  # every row of a stranger alarms
            evidence.read(
                {"rows": 100, "alarmed": [["", "warning", 50]], "of_group": {"big": 50}, "joint": [], "sequence": []}
            )
        assert (evidence.promise()["warning"] > 4.6) == watched


def test_each_model_has_its_own_keys(tmp_path: Path) -> None:
    content = model(grouped(tmp_path / "g.tocsin"), group="metadata.x-tenant")
    digits = content["models"]["digits"]
    content["models"]["other"] = {**digits, "group": "metadata.x-region", "session": "metadata.x-chat"}
    guard = Guard.open(Config(**content))
    call = guard.call(INFER, {"x-tenant": "t", "x-region": "r", "x-session": "s", "x-chat": "c", "unrelated": "u"})
    assert call is not None and "unrelated" not in call.keys
    keys = {name: (guarded.group_of(call), guarded.session_of(call)) for name, guarded in guard.models.items()}
    assert keys == {"digits": ("t", "s"), "other": ("r", "c")}


def test_a_version_may_be_the_group(tmp_path: Path) -> None:
    guard = Guard.open(Config(**model(grouped(tmp_path / "g.tocsin"), group="version")))
    call = guard.call(INFER, {})
    assert call is not None
    call.version = "v7"
    assert guard.models["digits"].group_of(call) == "v7"


@pytest.mark.parametrize("style", ["max", "band", "step"])
def test_a_session_is_judged_as_it_goes_on_as_it_would_be_at_once(tmp_path: Path, style: str) -> None:
    bundle = in_sessions(tmp_path / "s.tocsin", window=Window(3), style=style)
    promise = Bundle.read(bundle).require_promise()
    with served(bundle) as relay:
        first_session, second_session = [], []
        for row in range(12):  # two sessions, their calls interleaved
            first_session.append(ask(relay, b"%d" % row, ("x-session", "one")))
            second_session.append(ask(relay, b"%d" % (row + 50), ("x-session", "other")))
    scorer = Bundle.read(bundle).scorer
    for verdicts, first in ((first_session, 0), (second_session, 50)):
        progress = promise.sessions.start()  # type: ignore[union-attr]
        expected = promise.judge(scorer(SAFE.take(slice(first, first + 12))), sessions=[progress] * 12)
        assert [v.pvalues[0] for v in verdicts] == pytest.approx(expected.pvalues, rel=1e-4)
        assert [v.severity for v in verdicts] == expected.severities


def test_sessions_end_by_silence_or_number_and_are_counted_once() -> None:
    now = 0.0
    sessions = MemorySessions(SessionRule(), idle=10, most=3, clock=lambda: now)
    session = sessions.of("one")
    session.severity = "warning"
    assert sessions.of("one") is session and sessions.ended([("one", session)]) == []
    now = 20.0
    assert sessions.of("one") is not session  # the old one has ended
    assert sessions.ended([]) == ["warning"]
    for name in ("two", "three", "four"):
        sessions.of(name)
    assert sessions.ended([]) == [None] and len(sessions) == 3
    now = 40.0
    assert sessions.ended([]) == [None] * 3 and len(sessions) == 0
    alone = sessions.of("")
    alone.severity = "critical"
    assert sessions.ended([("", alone)]) == ["critical"] and len(sessions) == 0


def test_a_stretch_that_ends_in_a_late_call_is_counted_too(tmp_path: Path) -> None:
    guard = Guard.open(Config(**model(in_sessions(tmp_path / "s.tocsin", every=1))))
    batches: list[Scored] = []
    metrics = PrometheusSink(guard.models)
    guard.sinks += [SimpleNamespace(scored=batches.append, unscored=lambda call: None), metrics]
    for late in (False, True):
        call = guard.call(INFER, {"x-session": "one"})
        assert call is not None
        call.response, call.is_late = inference(SAFE, slice(0, 1)), late
        guard.judge([call])
    assert [len(batch.calls) for batch in batches] == [1, 0]
    assert [len(batch.ended or ()) for batch in batches] == [0, 1] and batches[1].scores.shape == (0, 2)
    (sessions,) = [family for family in metrics.collect() if family.name == "tocsin_sessions"]
    assert sum(sample.value for sample in sessions.samples) == 1


def test_the_last_sessions_are_counted_although_no_traffic_comes_after_them(tmp_path: Path) -> None:
    bundle = in_sessions(tmp_path / "s.tocsin")
    with served(bundle, session_idle="200ms") as relay:
        for name in ("one", "two"):
            ask(relay, b"1", ("x-session", name))
        until = time.monotonic() + 60
        while (counted := _sessions(relay.metrics)) < 2 and time.monotonic() < until:
            time.sleep(0.1)
    assert counted == 2
    guard = Guard.open(Config(**model(bundle, session_idle="50ms")))
    registry = CollectorRegistry()
    tocsin.export_metrics(guard, registry)
    call = guard.call(INFER, {"x-session": "one"})
    assert call is not None
    call.response = inference(SAFE, slice(0, 1))
    guard.judge([call])
    time.sleep(0.1)
    assert _sessions(generate_latest(registry).decode()) == 1


def test_looking_for_silent_sessions_does_not_wait_for_a_batch_that_is_judged(tmp_path: Path) -> None:
    guard = Guard.open(Config(**model(in_sessions(tmp_path / "s.tocsin"), session_idle="50ms")))
    batches: list[Scored] = []
    guard.sinks.append(SimpleNamespace(scored=batches.append, unscored=lambda call: None))
    call = guard.call(INFER, {"x-session": "one"})
    assert call is not None
    call.response = inference(SAFE, slice(0, 1))
    guard.judge([call])
    batches.clear()
    time.sleep(0.1)
    sessions = guard.models["digits"].scoring.judge.sessions
    assert sessions is not None
    with sessions.lock:  # as whoever judges holds it, through a round trip to Redis
        guard.end_silent_sessions()
        assert not batches
    guard.end_silent_sessions()
    assert [len(batch.ended or ()) for batch in batches] == [1]


def _sessions(metrics: str) -> float:
    lines = [line for line in metrics.splitlines() if line.startswith("tocsin_sessions_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def test_stretches_of_an_endless_session_are_counted_as_they_end(tmp_path: Path) -> None:
    bundle = in_sessions(tmp_path / "s.tocsin", every=5)
    with served(bundle) as relay:
        for row in range(11):
            ask(relay, b"%d" % row, ("x-session", "endless"))
        ended = sum(metric(relay, f'tocsin_sessions_total{{model="digits",severity="{s}"}}') for s in
                    ("none", "warning", "critical"))  # fmt: skip
        assert ended == 2
        assert "tocsin_promise_log_evalue" in relay.metrics and "tocsin_drift_log_evalue{" not in relay.metrics


def test_sessions_are_not_counted_by_the_law_of_a_step(tmp_path: Path) -> None:
    bundle = in_sessions(tmp_path / "s.tocsin", style="step")
    done = CliRunner().invoke(app, ["bundle", "show", str(bundle)])
    assert done.exit_code == 0 and "at any one step" in done.output and "of the next" not in done.output
    guard = Guard.open(Config(**model(bundle)))
    shown = {family.name for family in PrometheusSink(guard.models).collect() if family.samples}
    assert "tocsin_alpha" in shown and not shown & {"tocsin_expected_alarm_ratio", "tocsin_promise_log_evalue"}


def test_worth_decides_and_the_graver_action_wins(tmp_path: Path) -> None:
    bundle = weighed(tmp_path / "w.tocsin")
    with served(bundle, risk={"wrong_costs": 0.5, "review_costs": 0.3}) as relay:
        verdicts = [ask(relay, b"%d" % row) for row in range(120)]
        batch = ask(relay, b"batch")
        lines = [text for text in relay.metrics.splitlines() if text.startswith("tocsin_responses_total{")]
    policy = Bundle.read(bundle).risk
    assert policy is not None
    for verdict in verdicts:
        assert verdict.weighed is not None
        decision, p = verdict.weighed.decisions[0], verdict.weighed.p_correct[0]
        assert verdict.weighed.worth[0] == pytest.approx(p - 0.5 * (1 - p), abs=0.01)
        expected = "abstain" if decision == "abstain" else "flag" if decision == "flag" or verdict.alarm else "pass"
        assert verdict.action == expected
    assert {v.action for v in verdicts} == {"pass", "flag", "abstain"}
    assert all(any("right with probability" in r for r in v.reasons) == (v.action != "pass") for v in verdicts)
    assert batch.weighed is not None and len(batch.weighed.decisions) == 3
    for action in ("pass", "flag", "abstain"):
        counted = sum(v.action == action for v in verdicts)
        (line,) = [text for text in lines if f'decision="{action}"' in text and not text.endswith(" 0")]
        assert counted <= float(line.rpartition(" ")[2]) <= counted + 3  # the batch has three more


def test_a_bounded_risk_abstains_beyond_its_threshold(tmp_path: Path) -> None:
    bundle = weighed(tmp_path / "w.tocsin", max_error=0.05)
    read = Bundle.read(bundle)
    assert read.risk is not None and read.risk.selective is not None
    limit = read.risk.selective.threshold
    assert limit is not None
    guard = Guard.open(Config(**model(bundle, risk={"wrong_costs": 0})))  # worth alone would serve everything
    calls = [guard.call(INFER, {}) for _ in range(50)]
    for row, call in enumerate(calls):
        assert call is not None
        call.response = inference(SAFE, slice(row, row + 1))
    guard.judge([call for call in calls if call is not None])
    scores = read.scorer(SAFE.take(slice(0, 50)))[:, read.risk.column]
    for score, call in zip(scores, calls, strict=True):
        assert call is not None and call.verdict is not None and call.verdict.weighed is not None
        assert (call.verdict.weighed.decisions[0] == "abstain") == (score > limit)


@pytest.mark.parametrize(
    ("make", "more", "message"),
    [
        (grouped, {}, "models.digits.group: the bundle has a promise for each group"),
        (in_sessions, {"session": None}, "models.digits.session: the bundle's promise is for sessions"),
        (quick_bundle, {"risk": {}}, "models.digits.risk: the bundle does not know how often answers are right"),
    ],
)
def test_a_configuration_that_does_not_fit_its_bundle_is_refused(
    tmp_path: Path, make: Any, more: dict[str, Any], message: str
) -> None:
    path = tmp_path / "b.tocsin"
    make(path)
    with pytest.raises(tocsin.ConfigError, match=message):
        Guard.open(Config(**model(path, **more)))


def test_a_recording_keeps_the_group(tmp_path: Path, bundle: Path) -> None:
    import pyarrow.parquet as pq

    from tocsin.recording.recorder import Recorder

    recorder = Recorder.open(Config(**model(bundle, group="metadata.x-tenant")))
    recorder.start(tmp_path / "out", 10)
    call = recorder.guard.call(INFER, {"x-tenant": "north"})
    assert call is not None
    call.response = inference(SAFE, slice(0, 2))
    recorder.guard.judge([call])
    recorder.close()
    (file,) = (tmp_path / "out").iterdir()
    assert pq.read_table(file).column("group").to_pylist() == ["north", "north"]
