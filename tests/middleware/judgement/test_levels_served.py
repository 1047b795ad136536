"""Claims about levels that move, feedback, and evidence against a promise, while traffic flows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.harness.parts import INFER, METHOD, far_away, inference
from benchmarks.harness.served import SAFE, ask, grouped, metric, model, served

import tocsin
from tocsin.configuration.config import Config
from tocsin.feedback import report
from tocsin.judgement.call import Call
from tocsin.judgement.guard import Guard
from tocsin.judgement.sink import Scored
from tocsin.sinks.evidence import Evidence
from tocsin.verdict import Verdict
from tocsin_calibration import (
    Bundle,
    smoothed_pvalues,
    uniforms,
)
from tocsin_detectors import Observations


def test_evidence_counts_each_group_by_its_own_law_and_the_largest_only(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("tocsin.sinks.evidence.GROUPS", 1)
    promise = Bundle.read(grouped(tmp_path / "g.tocsin")).require_promise()
    evidence = Evidence(promise, 1_000, fixed=True)
    watched = max(promise.groups, key=lambda name: promise.groups[name].n)
    other = next(name for name in promise.groups if name != watched)

    def judged(groups: list[str], severity: str | None) -> Scored:
        call = Call(METHOD, {}, "", False)
        call.verdict = Verdict("digits", pvalues=[0.5] * len(groups), severities=[severity] * len(groups))
        return Scored("digits", [call], np.zeros((len(groups), 2), np.float32), 0.0, [0.0] * len(groups), groups)

    evidence.add(judged([other] * 200, "critical"), 200, True)  # in no watch
    assert max(evidence.promise().values()) < 0.1
    evidence.add(judged(["stranger"] * 50 + [watched] * 50, None), 100, False)
    evidence.promise()
    assert set(evidence._watches) == {watched}  # nothing is promised for strangers
    assert evidence._watches[watched]["warning"].counts == [0, 50]
    evidence.add(judged([watched] * 200, "critical"), 200, True)
    assert min(evidence.promise().values()) > 4.6


def test_levels_follow_labels_that_come_back_over_grpc(bundle: Path, tmp_path: Path) -> None:
    with served(bundle, adapt={"method": "aci", "step": 0.02}) as relay:
        before = metric(relay, 'tocsin_level{model="digits",severity="warning"}')
        verdicts = [ask(relay, b"far") for _ in range(3)] + [ask(relay, b"batch")]
        assert all(v.identifier for v in verdicts) and len({v.identifier for v in verdicts}) == 4
        assert relay.sidecar.admin_address
        admin = relay.sidecar.admin_address
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
        single, batch = ask(relay, b"7"), ask(relay, b"batch")
    joint = promise.joint(Bundle.read(bundle).scorer(SAFE))
    expected = smoothed_pvalues(promise.nonconformity, joint[7:8], uniforms([single.identifier]))
    assert single.pvalues == pytest.approx(expected.tolist(), rel=1e-4)
    names = [f"{batch.identifier}/{row}" for row in range(3)]
    assert batch.pvalues == pytest.approx(
        smoothed_pvalues(promise.nonconformity, joint[:3], uniforms(names)).tolist(), rel=1e-4
    )
    assert single.severity == promise.judge(Bundle.read(bundle).scorer(SAFE.take(slice(7, 8)))).severities[0]


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
    discovered = np.array(alarms)
    odd = np.arange(200) % 4 == 0
    # The calibration set has 400 scores: no p-value is below 1/401, so what is found is found once levels reach it.
    assert discovered[odd].mean() > 0.5 and discovered[~odd].sum() <= 0.2 * discovered.sum()


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
