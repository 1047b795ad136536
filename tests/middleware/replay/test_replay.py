"""Claims about looking back: a replay says what serving would have said, and an alarm can be explained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import INFER, METHOD, far_away, inference, running, safe_traffic, settings
from benchmarks.harness.served import grouped, in_sessions
from typer.testing import CliRunner

from tocsin.cli.main import app
from tocsin.judgement.guard import Guard
from tocsin.replay.replay import replay
from tocsin.sinks.prometheus import PrometheusSink
from tocsin_calibration import Bundle
from tocsin_detectors import Observations


def recorded(path: Path, observations: Observations, **columns: Any) -> Path:
    signals = {f"signal.{name}": list(values) for name, values in observations.items()}
    rows = observations.rows
    times = np.datetime64("2026-11-01T00:00:00", "us") + np.arange(rows) * np.timedelta64(1, "s")
    content = {"time": pa.array(times), "model": ["digits"] * rows, **columns, **signals}
    pq.write_table(pa.table(content), path)
    return path


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def joined(*parts: Observations) -> Observations:
    return Observations({name: np.vstack([part[name] for part in parts]) for name in parts[0]})


def test_a_replay_says_what_serving_counted(bundle: Path, tmp_path: Path) -> None:
    traffic = joined(safe_traffic(900, seed=50), far_away(40), safe_traffic(60, seed=51))
    guard = Guard.open(settings(1, bundle))
    sink = PrometheusSink(guard.models)
    guard.sinks.append(sink)
    for row in range(traffic.rows):
        call = guard.call(METHOD.name, {})
        assert call is not None
        judged = call.on_response_message(inference(traffic, slice(row, row + 1)))
        assert judged is not None
        guard.judge([judged])
    live = sink.figures()["digits"]
    recording = recorded(tmp_path / "traffic.parquet", traffic)
    output = run("replay", recording, bundle, "--json", tmp_path / "out.json", "--html", tmp_path / "out.html")
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["trials"] == live["judged"] == 1_000
    assert report["alarms"]["critical"] == live["alarms"]["critical"]
    assert report["alarms"]["warning"] == live["alarms"]["critical"] + live["alarms"]["warning"]
    again = replay(Bundle.read(bundle).require_promise(), Bundle.read(bundle).scorer(traffic))
    assert {name: values[-1] for name, values in again.evidence.items()} == pytest.approx(live["promise"])
    assert again.drift[-1] == pytest.approx(live["drift"])
    assert 900 < report["paged"]["critical"] <= 950  # among the far ones, not before
    assert "an alert would have fired after 950" in output and "2026-11-01" in output
    page = (tmp_path / "out.html").read_text()
    assert page.count("<svg") == 5 and "http" not in page.replace("http-equiv", "")


def test_safe_traffic_pages_nobody(bundle: Path, tmp_path: Path) -> None:
    output = run("replay", recorded(tmp_path / "safe.parquet", safe_traffic(1_500, seed=60)), bundle)
    assert output.count("no alert would have fired") == 2


def test_sessions_are_counted_once_and_groups_have_their_own_promise(tmp_path: Path) -> None:
    sessions = in_sessions(tmp_path / "sessions.tocsin")
    names = [f"s{row // 10}" for row in range(300)]
    output = run("replay", recorded(tmp_path / "s.parquet", safe_traffic(300, seed=61), session=names), sessions)
    assert "of 30 sessions would have alarmed" in output
    bundle = grouped(tmp_path / "groups.tocsin")
    groups = ["calm"] * 200
    output = run("replay", recorded(tmp_path / "g.parquet", safe_traffic(200, seed=62), group=groups), bundle)
    assert "of 200 responses would have alarmed" in output


def test_what_cannot_be_replayed_is_told(bundle: Path, tmp_path: Path) -> None:
    broken = safe_traffic(20)
    probs = broken["probs"].copy()
    probs[3, 0] = np.nan
    recording = recorded(tmp_path / "b.parquet", Observations({"probs": probs, "embedding": broken["embedding"]}))
    done = CliRunner().invoke(app, ["replay", str(recording), str(bundle)])
    assert done.exit_code != 0 and "--leave-out-broken" in str(done.exception)
    assert "of 19 responses" in run("replay", recording, bundle, "--leave-out-broken")


def test_an_alarm_is_explained_from_the_live_tocsin_and_from_a_file(bundle: Path, tmp_path: Path) -> None:
    events = {"to": [{"file": tmp_path / "alarms.jsonl"}], "burst": 1, "window": "300ms"}
    safe = recorded(tmp_path / "safe.parquet", safe_traffic(50, seed=70), session=[f"s{row}" for row in range(50)])
    with model_server() as (model, address), running(settings(address, bundle, events=events)) as relay:
        model.answers = {b"far": inference(far_away(1), slice(0, 1))}
        with grpc.insecure_channel(relay.target) as channel:
            for _ in range(4):
                channel.unary_unary(INFER)(b"far", timeout=60)
        first = json.loads((tmp_path / "alarms.jsonl").read_text().splitlines()[0])
        assert relay.sidecar.http is not None
        live = run("explain", first["id"], bundle, "--of", relay.sidecar.http.address)
        done = CliRunner().invoke(app, ["explain", "none", str(bundle), "--of", str(relay.sidecar.http.address)])
        assert "does not remember an alarm none" in str(done.exception)
    assert "critical alarm of digits" in live
    assert "mahalanobis" in live and "above every calibration score" in live
    assert "the calibration responses most like it" in live
    (summed,) = [
        json.loads(line)["id"]
        for line in (tmp_path / "alarms.jsonl").read_text().splitlines()
        if "summed" in json.loads(line)["type"]
    ]
    output = run("explain", summed, bundle, "--events", tmp_path / "alarms.jsonl", "--safe", safe)
    assert "sums 3 alarms of digits; this is the worst of them" in output
    assert "2026-11-01" in output and " s" in output.splitlines()[-1]


def test_another_bundle_explains_nothing(bundle: Path, tmp_path: Path) -> None:
    other = grouped(tmp_path / "other.tocsin")
    event = {"id": "1-1", "time": "t", "data": {"bundle": Bundle.read(bundle).digest, "severity": "warning"}}
    (tmp_path / "alarms.jsonl").write_text(json.dumps(event) + "\n")
    done = CliRunner().invoke(app, ["explain", "1-1", str(other), "--events", str(tmp_path / "alarms.jsonl")])
    assert "the alarm was raised by sha256:" in str(done.exception)
    done = CliRunner().invoke(app, ["explain", "2-2", str(bundle), "--events", str(tmp_path / "alarms.jsonl")])
    assert "has no alarm 2-2" in str(done.exception)
