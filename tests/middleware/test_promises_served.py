"""Claims about promises on the way: groups, sessions, worth, levels that move, and the evidence against them."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tests.model_server import model_server
from tests.parts import INFER, Running, far_away, inference, quick_bundle, running, safe_traffic, settings

import tocsin
from tocsin.config import Config
from tocsin.feedback import report
from tocsin.judgement.call import Call
from tocsin.judgement.guard import Guard
from tocsin.judgement.sessions import Sessions
from tocsin.judgement.sink import Scored
from tocsin.sinks.evidence import Evidence
from tocsin.verdict import Verdict
from tocsin_calibration import (
    Bundle,
    SessionRule,
    Window,
    calibrate,
    calibrate_sessions,
    fit_risk_policy,
    smoothed_pvalues,
    uniforms,
)
from tocsin_detectors import Observations

SAFE = safe_traffic(400, seed=21)


def bundle_with(path: Path, **parts: Any) -> Path:
    dataclasses.replace(quick_bundle(path), **parts).write(path)
    return path


def grouped(path: Path) -> Path:
    bundle = quick_bundle(path)
    scores = bundle.scorer(safe_traffic(1_500, seed=1))
    groups = ["calm" if row % 2 else "wild" for row in range(1_500)]
    scores[::2] *= 3  # the wild ones score higher
    return bundle_with(path, promise=calibrate(scores, groups=groups, detectors=bundle.scorer.detectors))


def in_sessions(path: Path, **rule: Any) -> Path:
    bundle = quick_bundle(path)
    scores = bundle.scorer(safe_traffic(3_000, seed=2))
    promise = calibrate_sessions(
        np.split(scores, 300), {"warning": 0.1, "critical": 0.05}, session=SessionRule(**rule), rule="all"
    )
    return bundle_with(path, promise=promise)


def weighed(path: Path, **more: Any) -> Path:
    bundle = quick_bundle(path)
    scores = bundle.scorer(safe_traffic(1_500, seed=3))
    right = np.random.default_rng(3).random(1_500) > scores[:, 0] / scores[:, 0].max()
    return bundle_with(path, risk=fit_risk_policy(scores, right, column=0, **more))


def model(bundle: Path, **more: Any) -> dict[str, Any]:
    signals = {"probs": "response.outputs.probs", "embedding": "response.outputs.embedding"}
    return {"models": {"digits": {"bundle": bundle, "signals": signals, "session": "metadata.x-session", **more}}}


@contextmanager
def served(bundle: Path, answers: Observations = SAFE, **more: Any) -> Iterator[Running]:
    with model_server() as (server, address):
        server.answers = {b"%d" % row: inference(answers, slice(row, row + 1)) for row in range(answers.rows)}
        server.answers[b"far"] = inference(far_away(1), slice(0, 1))
        server.answers[b"batch"] = inference(answers, slice(0, 3))
        config = settings(address, bundle, admin="127.0.0.1:0", **model(bundle, **more))
        with running(config) as made:
            yield made


def ask(relay: Running, request: bytes, *metadata: tuple[str, str]) -> Verdict:
    with grpc.insecure_channel(relay.target) as channel:
        _, call = channel.unary_unary(INFER).with_call(request, metadata=metadata, timeout=10)
    verdict = tocsin.verdict(call)
    assert verdict is not None and verdict.unscored is None
    return verdict


def metric(relay: Running, line: str) -> float:
    found = [one for one in relay.metrics.splitlines() if one.startswith(line + " ")]
    return float(found[0].rpartition(" ")[2]) if found else 0.0


def test_each_group_is_judged_by_its_own_threshold(tmp_path: Path) -> None:
    bundle = grouped(tmp_path / "g.tocsin")
    promise = Bundle.read(bundle).require_promise()
    with served(bundle, group="metadata.x-tenant") as relay:
        found = {name: [ask(relay, b"%d" % row, ("x-tenant", name)) for row in range(30)] for name in ("calm", "wild")}
        stranger = ask(relay, b"3", ("x-tenant", "nobody"))
    scores = Bundle.read(bundle).scorer(SAFE.take(slice(0, 30)))
    for name, verdicts in found.items():
        expected = promise.judge(scores, [name] * 30)
        assert [v.pvalues[0] for v in verdicts] == pytest.approx(expected.pvalues, rel=1e-4)
        assert [v.severity for v in verdicts] == expected.severities
    assert any(c.pvalues != w.pvalues for c, w in zip(found["calm"], found["wild"], strict=True))
    assert stranger.pvalues[0] == pytest.approx(promise.judge(scores[3:4]).pvalues[0], rel=1e-4)


def test_evidence_counts_each_group_by_its_own_law_and_the_largest_only(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("tocsin.sinks.evidence.GROUPS", 1)
    promise = Bundle.read(grouped(tmp_path / "g.tocsin")).require_promise()
    evidence = Evidence(promise, 1_000, fixed=True)
    watched = max(promise.groups, key=lambda name: promise.groups[name].n)
    other = next(name for name in promise.groups if name != watched)

    def judged(groups: list[str], severity: str | None) -> Scored:
        call = Call(INFER, {}, "", False)
        call.verdict = Verdict("digits", pvalues=[0.5] * len(groups), severities=[severity] * len(groups))
        return Scored("digits", [call], np.zeros((len(groups), 2), np.float32), 0.0, [0.0] * len(groups), groups)

    evidence.add(judged([other] * 200, "critical"), 200, True)  # in no watch
    assert max(evidence.promise().values()) < 0.1
    evidence.add(judged(["stranger"] * 50 + [watched] * 50, None), 100, False)
    evidence.promise()
    assert [evidence._watches[group]["warning"].counts for group in ("", watched)] == [[0, 50], [0, 50]]
    evidence.add(judged([watched] * 200, "critical"), 200, True)
    assert min(evidence.promise().values()) > 4.6


def test_each_model_has_its_own_keys(tmp_path: Path) -> None:
    content = model(grouped(tmp_path / "g.tocsin"), group="metadata.x-tenant")
    digits = content["models"]["digits"]
    content["models"]["other"] = {**digits, "group": "metadata.x-region", "session": "metadata.x-chat"}
    guard = Guard.open(Config(**content))
    call = guard.call(INFER, {"x-tenant": "t", "x-region": "r", "x-session": "s", "x-chat": "c", "unrelated": "u"})
    assert call is not None and "unrelated" not in call.keys
    told = {name: (one.group_of(call), one.session_of(call)) for name, one in guard.models.items()}
    assert told == {"digits": ("t", "s"), "other": ("r", "c")}


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
        one, other = [], []
        for row in range(12):  # two sessions, their calls interleaved
            one.append(ask(relay, b"%d" % row, ("x-session", "one")))
            other.append(ask(relay, b"%d" % (row + 50), ("x-session", "other")))
    scorer = Bundle.read(bundle).scorer
    for verdicts, first in ((one, 0), (other, 50)):
        progress = promise.sessions.start()  # type: ignore[union-attr]
        expected = promise.judge(scorer(SAFE.take(slice(first, first + 12))), sessions=[progress] * 12)
        assert [v.pvalues[0] for v in verdicts] == pytest.approx(expected.pvalues, rel=1e-4)
        assert [v.severity for v in verdicts] == expected.severities


def test_sessions_end_by_silence_or_number_and_are_counted_once() -> None:
    now = 0.0
    sessions = Sessions(SessionRule(), idle=10, most=3, clock=lambda: now)
    one = sessions.of("one")
    one.severity = "warning"
    assert sessions.of("one") is one and sessions.ended([("one", one)]) == []
    now = 20.0
    assert sessions.of("one") is not one  # the old one has ended
    assert sessions.ended([]) == ["warning"]
    for name in ("two", "three", "four"):
        sessions.of(name)
    assert sessions.ended([]) == [None] and len(sessions) == 3
    now = 40.0
    assert sessions.ended([]) == [None] * 3 and len(sessions) == 0
    alone = sessions.of("")
    alone.severity = "critical"
    assert sessions.ended([("", alone)]) == ["critical"] and len(sessions) == 0


def test_stretches_of_an_endless_session_are_counted_as_they_end(tmp_path: Path) -> None:
    bundle = in_sessions(tmp_path / "s.tocsin", every=5)
    with served(bundle) as relay:
        for row in range(11):
            ask(relay, b"%d" % row, ("x-session", "endless"))
        ended = sum(metric(relay, f'tocsin_sessions_total{{model="digits",severity="{s}"}}') for s in
                    ("none", "warning", "critical"))  # fmt: skip
        assert ended == 2
        assert "tocsin_promise_log_evalue" in relay.metrics and "tocsin_drift_log_evalue{" not in relay.metrics


def test_worth_decides_and_the_graver_action_wins(tmp_path: Path) -> None:
    bundle = weighed(tmp_path / "w.tocsin")
    with served(bundle, risk={"wrong_costs": 0.5, "review_costs": 0.3}) as relay:
        verdicts = [ask(relay, b"%d" % row) for row in range(120)]
        batch = ask(relay, b"batch")
        lines = [one for one in relay.metrics.splitlines() if one.startswith("tocsin_responses_total{")]
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
        seen = sum(v.action == action for v in verdicts)
        (line,) = [one for one in lines if f'decision="{action}"' in one]
        assert seen <= float(line.rpartition(" ")[2]) <= seen + 3  # the batch has three more


def test_a_bounded_risk_abstains_beyond_its_threshold(tmp_path: Path) -> None:
    bundle = weighed(tmp_path / "w.tocsin", max_error=0.05)
    made = Bundle.read(bundle)
    assert made.risk is not None and made.risk.selective is not None
    limit = made.risk.selective.threshold
    assert limit is not None
    guard = Guard.open(Config(**model(bundle, risk={"wrong_costs": 0})))  # worth alone would serve everything
    calls = [guard.call(INFER, {}) for _ in range(50)]
    for row, call in enumerate(calls):
        assert call is not None
        call.response = inference(SAFE, slice(row, row + 1))
    guard.judge([call for call in calls if call is not None])
    scores = made.scorer(SAFE.take(slice(0, 50)))[:, made.risk.column]
    for score, call in zip(scores, calls, strict=True):
        assert call is not None and call.verdict is not None and call.verdict.weighed is not None
        assert (call.verdict.weighed.decisions[0] == "abstain") == (score > limit)


def test_levels_follow_labels_that_come_back_over_grpc(bundle: Path, tmp_path: Path) -> None:
    with served(bundle, adapt={"method": "aci", "step": 0.02}) as relay:
        before = metric(relay, 'tocsin_level{model="digits",severity="warning"}')
        verdicts = [ask(relay, b"far") for _ in range(3)] + [ask(relay, b"batch")]
        assert all(v.identifier for v in verdicts) and len({v.identifier for v in verdicts}) == 4
        assert relay.sidecar._admin is not None
        admin = str(relay.sidecar._admin.address)
        table = tmp_path / "labels.csv"
        first, second, third, batch = (v.identifier for v in verdicts)
        table.write_text(f"model,id,safe\ndigits,{first},safe\ndigits,{second},bad\ndigits,{first},safe\n"
                         f"digits,never,safe\ndigits,{batch}/2,safe\n")  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "tocsin", "feedback", table, "--to", admin],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == "2 learnt, 1 bad, 1 duplicate, 1 unknown\n"
        assert before == 0.05
        # One false alarm lowers the level by 0.02 * 0.95, one quiet safe row raises it by 0.02 * 0.05.
        assert metric(relay, 'tocsin_level{model="digits",severity="warning"}') == pytest.approx(0.05 - 0.019 + 0.001)
        assert metric(relay, 'tocsin_feedback_total{model="digits",outcome="learnt"}') == 2
        assert "tocsin_promise_log_evalue{" not in relay.metrics  # no fixed threshold to hold alarms to
        assert report(admin, [("digits", third, True)])["learnt"] == 1
        with pytest.raises(tocsin.FeedbackError, match="model 'other' does not follow feedback"):
            report(admin, [("other", third, True)])
        table.write_text("model,id,safe\ndigits,x,perhaps\n")
        wrong = subprocess.run(
            [sys.executable, "-m", "tocsin", "feedback", table, "--to", admin],
            capture_output=True,
            text=True,
            check=False,
        )
        assert wrong.returncode == 2 and "line 2: safe must be one of" in wrong.stderr


def test_feedback_that_reaches_nobody_is_told() -> None:
    with pytest.raises(tocsin.FeedbackError, match=r"127\.0\.0\.1:1:"):
        report("127.0.0.1:1", [("digits", "x", True)], timeout=2)


def test_smoothed_pvalues_follow_from_the_verdicts_id(bundle: Path) -> None:
    promise = Bundle.read(bundle).require_promise()
    with served(bundle, smoothed=True) as relay:
        one, batch = ask(relay, b"7"), ask(relay, b"batch")
    joint = promise.joint(Bundle.read(bundle).scorer(SAFE))
    expected = smoothed_pvalues(promise.nonconformity, joint[7:8], uniforms([one.identifier]))
    assert one.pvalues == pytest.approx(expected.tolist(), rel=1e-4)
    names = [f"{batch.identifier}/{row}" for row in range(3)]
    assert batch.pvalues == pytest.approx(
        smoothed_pvalues(promise.nonconformity, joint[:3], uniforms(names)).tolist(), rel=1e-4
    )
    assert one.severity == promise.judge(Bundle.read(bundle).scorer(SAFE.take(slice(7, 8)))).severities[0]


def test_discoveries_alarm_by_a_level_that_is_spent_and_earned(bundle: Path) -> None:
    guard = Guard.open(Config(**model(bundle, discoveries={"method": "saffron"})))
    strange = far_away(1)
    alarms = []
    for row in range(200):
        call = guard.call(INFER, {})
        assert call is not None
        call.response = inference(
            strange if row % 4 == 0 else SAFE, slice(0, 1) if row % 4 == 0 else slice(row, row + 1)
        )
        guard.judge([call])
        assert call.verdict is not None
        alarms.append(call.verdict.alarm)
    found = np.array(alarms)
    odd = np.arange(200) % 4 == 0
    # The calibration set has 400 scores: no p-value is below 1/401, so what is found is found once levels reach it.
    assert found[odd].mean() > 0.5 and found[~odd].sum() <= 0.2 * found.sum()


def test_drift_shows_in_the_metrics_before_alarms_do(bundle: Path) -> None:
    shifted = Observations({"probs": SAFE["probs"], "embedding": SAFE["embedding"] * 0.3})  # too calm to alarm
    with served(bundle, shifted) as relay:
        for row in range(200):
            ask(relay, b"%d" % row)
        assert metric(relay, 'tocsin_drift_log_evalue{model="digits"}') > 4.6
        assert metric(relay, 'tocsin_promise_log_evalue{model="digits",severity="warning"}') < 1


def test_the_e_detector_may_stand_for_the_windows(bundle: Path) -> None:
    with served(bundle, evidence="run_length") as relay:
        for row in range(40):
            ask(relay, b"%d" % row)
        calm = metric(relay, 'tocsin_promise_log_evalue{model="digits",severity="warning"}')
        for _ in range(30):
            ask(relay, b"far")
        assert metric(relay, 'tocsin_promise_log_evalue{model="digits",severity="warning"}') > max(9.2, calm)


def test_safe_traffic_is_no_evidence_of_anything(bundle: Path) -> None:
    with served(bundle) as relay:
        for row in range(300):
            ask(relay, b"%d" % row)
        assert metric(relay, 'tocsin_drift_log_evalue{model="digits"}') < 4.6
        assert metric(relay, 'tocsin_promise_log_evalue{model="digits",severity="warning"}') < 4.6


@pytest.mark.parametrize(
    ("make", "more", "told"),
    [
        (grouped, {}, "models.digits.group: the bundle has a promise a group"),
        (in_sessions, {"session": None}, "models.digits.session: the bundle promises for sessions"),
        (quick_bundle, {"risk": {}}, "models.digits.risk: the bundle does not know how often answers are right"),
    ],
)
def test_a_configuration_that_does_not_fit_its_bundle_is_refused(
    tmp_path: Path, make: Any, more: dict[str, Any], told: str
) -> None:
    path = tmp_path / "b.tocsin"
    make(path)
    with pytest.raises(tocsin.ConfigError, match=told):
        Guard.open(Config(**model(path, **more)))


def test_a_recording_keeps_the_group(tmp_path: Path, bundle: Path) -> None:
    import pyarrow.parquet as pq

    from tocsin.recording.recorder import Recorder

    recorder = Recorder.open(Config(**model(bundle, group="metadata.x-tenant")))
    recorder.start(tmp_path / "out", 10)
    call = recorder.call(INFER, {"x-tenant": "north"})
    assert call is not None
    call.response = inference(SAFE, slice(0, 2))
    recorder.judge([call])
    recorder.close()
    (file,) = (tmp_path / "out").iterdir()
    assert pq.read_table(file).column("group").to_pylist() == ["north", "north"]
