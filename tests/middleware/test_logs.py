"""Claims about the log: JSON for programs, lines for people, nothing said a thousand times, no payloads."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from tests.model_server import model_server
from tests.parts import INFER, METHOD, SIGNALS, far_away, free_port, inference, settings

from tocsin.judgement import news
from tocsin.judgement.guard import Guard
from tocsin.judgement.news import News

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def served_log(bundle: Path, tmp_path: Path, form: str, **more: Any) -> list[str]:
    """What a relay writes that has seen alarms and broken responses."""
    listen = free_port()
    with model_server() as (model, address):
        model.answers = {b"far": inference(far_away(1), slice(0, 1)), b"secret": b"\xff\xffs3cret"}
        config = tmp_path / "tocsin.yaml"
        config.write_text(yaml.safe_dump({
            "listen": f"127.0.0.1:{listen}", "upstream": address, "metrics": None, "admin": None,
            "events": {"to": [{"log": "warning"}], "window": "300ms", "burst": 2},
            "models": {"digits": {"bundle": str(bundle), "signals": SIGNALS}}, **more,
        }))  # fmt: skip
        command = [sys.executable, "-m", "tocsin", "--log", form, "serve", "-c", str(config)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        with grpc.insecure_channel(f"127.0.0.1:{listen}") as channel:
            for request in [b"far"] * 6 + [b"secret"] * 5:
                channel.unary_unary(INFER)(request, metadata=(("traceparent", TRACE),), wait_for_ready=True, timeout=20)
        process.terminate()
        _, told = process.communicate(timeout=30)
    return told.splitlines()


@pytest.mark.parametrize("workers", [1, 2])
def test_json_lines_carry_what_programs_look_for(bundle: Path, tmp_path: Path, workers: int) -> None:
    lines = [json.loads(line) for line in served_log(bundle, tmp_path, "json", workers=workers)]
    assert all({"timestamp", "level", "logger", "message"} <= line.keys() for line in lines)
    alarms = [line for line in lines if line["logger"] == "tocsin.alarms"]
    assert alarms[0]["level"] == "warning" and alarms[0]["trace_id"] == TRACE.split("-")[1]
    assert alarms[0]["model"] == "digits" and alarms[0]["severity"] == "critical" and alarms[0]["alarm_id"]
    assert set(alarms[0]["detectors"]) == {"entropy", "mahalanobis"}
    assert any("more alarms" in line["message"] for line in alarms)  # a storm is summed here too
    unscored = [line for line in lines if line.get("reason") == "undecodable"]
    assert len(unscored) <= workers and unscored[0]["trace_id"] == TRACE.split("-")[1]


def test_lines_for_people_say_the_same_and_no_payload(bundle: Path, tmp_path: Path) -> None:
    told = "\n".join(served_log(bundle, tmp_path, "text"))
    assert "model digits: critical alarm, p = 0.00249: " in told and "as high in 0.50% of safe responses" in told
    assert told.count("unscored (undecodable)") == 1
    assert "s3cret" not in told


def test_the_first_of_a_kind_is_told_and_then_how_many_were_not(
    bundle: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1_000.0]
    monkeypatch.setattr(news.time, "monotonic", lambda: now[0])
    guard = Guard.open(settings(1, bundle))

    def broken(times: int) -> None:
        for _ in range(times):
            call = guard.call(METHOD.name, {})
            assert call is not None
            judged = call.answered(b"\xff\xff")
            assert judged is not None
            guard.judge([judged])

    with caplog.at_level(logging.WARNING, "tocsin"):
        broken(100)
        now[0] += 61
        broken(3)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2 and "more" not in told[0] and told[1].endswith("(and 99 more since it was last told)")


def test_news_of_different_kinds_do_not_hide_each_other() -> None:
    said = News()
    assert [said.of("a", "x"), said.of("a", "y"), said.of("b", "x"), said.of("a", "x")] == [0, 0, 0, None]
