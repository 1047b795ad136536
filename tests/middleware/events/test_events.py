"""Claims about alarms as events: what is told of an alarm, and how often."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import (
    INFER,
    SIGNALS,
    far_away,
    inference,
    running,
    safe_traffic,
    settings,
)
from tests.middleware.events.hook import alarming

from tocsin.configuration.config import Config
from tocsin.configuration.events import WebhookTarget
from tocsin.errors import ConfigError
from tocsin.events.alarm_throttle import AlarmThrottle
from tocsin.events.webhook import Webhook
from tocsin.names import MAX_LENGTH

# -- what is told


def test_an_alarm_says_what_is_known_and_no_payload(bundle: Path, tmp_path: Path) -> None:
    events = {"to": [{"file": tmp_path / "alarms.jsonl"}]}
    with model_server() as (model, address), running(settings(address, bundle, events=events)) as relay:
        model.answers = {b"far": inference(far_away(1), slice(0, 1))}
        alarming(relay, 1, session="s1")
        (event,) = [json.loads(line) for line in (tmp_path / "alarms.jsonl").read_text().splitlines()]
        digest = relay.sidecar.relay.context.guard.models["digits"].scoring.digest
    data = event["data"]
    assert (event["type"], event["subject"], event["specversion"]) == ("tocsin.alarm.v1", "digits/s1", "1.0")
    assert (data["model"], data["version"], data["session"], data["severity"]) == ("digits", "v1", "s1", "critical")
    assert (data["action"], data["method"], data["bundle"]) == ("flag", INFER, digest)
    assert data["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    assert set(data["detectors"]) == set(data["scores"]) == {"entropy", "mahalanobis"}
    assert data["p"] <= 0.01 and data["reasons"][0].startswith(("entropy", "mahalanobis"))
    assert "response" not in data and "request" not in data


def test_payloads_are_told_when_asked_for(bundle: Path, tmp_path: Path) -> None:
    events = {"to": [{"file": tmp_path / "alarms.jsonl"}], "payload": "response"}
    answer = inference(far_away(1), slice(0, 1))
    with model_server() as (model, address), running(settings(address, bundle, events=events)) as relay:
        model.answers = {b"far": answer}
        alarming(relay, 1)
    (alarm_event,) = [json.loads(line) for line in (tmp_path / "alarms.jsonl").read_text().splitlines()]
    assert base64.b64decode(alarm_event["data"]["response"]) == answer and "request" not in alarm_event["data"]


def test_safe_responses_are_no_events(bundle: Path, tmp_path: Path) -> None:
    events = {"to": [{"file": tmp_path / "alarms.jsonl"}]}
    safe = safe_traffic(200, seed=3)
    with model_server() as (model, address), running(settings(address, bundle, events=events)) as relay:
        model.answers = {b"%d" % row: inference(safe, slice(row, row + 1)) for row in range(200)}
        with grpc.insecure_channel(relay.target) as channel:
            for row in range(200):
                channel.unary_unary(INFER)(b"%d" % row)
        alarmed = sum(
            int(float(line.rpartition(" ")[2]))
            for line in relay.metrics.splitlines()
            if line.startswith("tocsin_alarms_total")
        )
    lines = [json.loads(line) for line in (tmp_path / "alarms.jsonl").read_text().splitlines()]
    counted = sum(event["data"].get("alarms", 1) for event in lines)
    assert counted == alarmed < 30


def test_a_storm_is_summed_and_nothing_is_left_out(bundle: Path, tmp_path: Path) -> None:
    events = {"to": [{"file": tmp_path / "alarms.jsonl"}], "window": "300ms", "burst": 3}
    with model_server() as (model, address), running(settings(address, bundle, events=events)) as relay:
        model.answers = {b"far": inference(far_away(1), slice(0, 1))}
        alarming(relay, 40)
    lines = [json.loads(line) for line in (tmp_path / "alarms.jsonl").read_text().splitlines()]
    single = [event for event in lines if event["type"] == "tocsin.alarm.v1"]
    sums = [event for event in lines if event["type"] == "tocsin.alarms.summed.v1"]
    assert sums and len(single) < 40
    assert len(single) + sum(event["data"]["alarms"] for event in sums) == 40
    assert sums[0]["data"]["severities"].keys() == {"critical"}
    assert sums[0]["data"]["detectors"][0] in ("entropy", "mahalanobis")
    worst = sums[0]["data"]["worst"]
    assert (
        worst["p"] == sums[0]["data"]["p"] and worst["reasons"] and worst["scores"].keys() == worst["detectors"].keys()
    )


def test_a_session_is_told_once_and_again_when_it_is_graver() -> None:
    storms = AlarmThrottle(window=10, burst=100, repeat=300)
    assert storms.admits("m", "a", 1, 0)
    assert not storms.admits("m", "a", 1, 5)
    assert storms.admits("m", "a", 0, 6)  # graver
    assert not storms.admits("m", "a", 0, 7)
    assert not storms.admits("m", "a", 1, 8)
    assert storms.admits("m", "b", 1, 9)
    assert storms.admits("other", "a", 1, 9)
    assert storms.admits("m", "a", 1, 400)  # long ago


def test_the_burst_bounds_what_is_told_by_model_and_window() -> None:
    storms = AlarmThrottle(window=10, burst=2, repeat=300)
    admitted = [storms.admits("m", f"s{n}", 0, 1.0) for n in range(5)]
    assert admitted == [True, True, False, False, False]
    for n in range(2, 5):
        storms.add("m", f"s{n}", "critical", 0.01 / abs(n - 7), "entropy", lambda n=n: {"worst": n})
    assert storms.ended(5.0) == []
    (summary,) = storms.ended(11.0)
    assert (summary.severities["critical"], len(summary.sessions), summary.lowest) == (3, 3, 0.01 / 5)
    assert summary.worst == {"worst": 2}
    assert storms.admits("m", "s9", 0, 11.0)


def test_long_names_of_sessions_are_told_apart_and_kept_short() -> None:
    storms = AlarmThrottle(window=10, burst=100, repeat=300)
    long = ["s" * 7_500 + end for end in "ab"]
    assert [storms.admits("m", name, 1, 0) for name in (*long, *long)] == [True, True, False, False]
    for name in long:
        storms.add("m", name, "critical", 0.01, "entropy", dict)
    (summary,) = storms.ended(11.0)
    assert len(summary.sessions) == 2
    assert max(len(name) for name in (*summary.sessions, *(name for _, name in storms._sessions))) <= MAX_LENGTH


# -- mistakes


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ({"to": [{"webhook": "http://x/"}]}, "events.spool: is required"),
        ({"to": []}, "events.to"),
        ({"to": [{"webhook": "not a url"}], "spool": "s"}, "webhook"),
        ({"to": [{"file": "a", "extra": 1}]}, "there is no such setting"),
    ],
)
def test_mistakes_in_the_configuration_are_told(events: dict[str, Any], message: str, tmp_path: Path) -> None:
    config = tmp_path / "tocsin.yaml"
    config.write_text(yaml.safe_dump({"models": {"digits": {"signals": SIGNALS}}, "events": events}))
    with pytest.raises(ConfigError, match=message):
        Config.load(config)


def test_a_secret_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("not base64!")
    for path, message in ((tmp_path / "secret", "whsec_ and base64"), (tmp_path / "none", "cannot be read")):
        with pytest.raises(ConfigError, match=message):
            Webhook(WebhookTarget(webhook="http://x/", secret=path, timeout=timedelta(seconds=1)))  # type: ignore[arg-type]
