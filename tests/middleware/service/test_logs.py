"""Claims about the log: JSON for programs, lines for people, nothing said a thousand times, no payloads."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import (
    INFER,
    METHOD,
    SIGNALS,
    TRIES_AGAIN_SOON,
    at_once,
    far_away,
    free_port,
    inference,
    running,
    settings,
)
from benchmarks.harness.served import ask, grouped, in_sessions, served

from tocsin.judgement.guard import Guard
from tocsin.log_throttle import LogThrottle

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def served_log(bundle: Path, tmp_path: Path, form: str, **more: Any) -> list[str]:
    """What a relay writes that has seen alarms and broken responses."""
    listen = free_port()
    with model_server() as (model, address):
        model.answers = {b"far": inference(far_away(1), slice(0, 1)), b"secret": b"\xff\xffs3cret"}
        config = tmp_path / "tocsin.yaml"
        config.write_text(yaml.safe_dump({
            "listen": f"127.0.0.1:{listen}", "upstream": address, "metrics": None, "admin": None,
            "scoring_budget": "60s",
            "events": {"to": [{"log": "warning"}], "window": "300ms", "burst": 2},
            "models": {"digits": {"bundle": str(bundle), "signals": SIGNALS}}, **more,
        }))  # fmt: skip
        command = [sys.executable, "-m", "tocsin", "--log", form, "serve", "-c", str(config)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=at_once())
        with grpc.insecure_channel(f"127.0.0.1:{listen}", TRIES_AGAIN_SOON) as channel:
            for request in [b"far"] * 6 + [b"secret"] * 5:
                channel.unary_unary(INFER)(request, metadata=(("traceparent", TRACE),), wait_for_ready=True, timeout=60)
        process.terminate()
        _, output = process.communicate(timeout=60)
    return output.splitlines()


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
    output = "\n".join(served_log(bundle, tmp_path, "text"))
    assert "model digits: critical alarm, p = 0.00249: " in output and "as high in 0.50% of safe responses" in output
    assert output.count("unscored (undecodable)") == 1
    assert "s3cret" not in output


def test_the_first_of_a_kind_is_told_and_then_how_many_were_not(
    bundle: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1_000.0]
    monkeypatch.setattr("tocsin.log_throttle.time.monotonic", lambda: now[0])
    guard = Guard.open(settings(1, bundle))

    def broken(times: int) -> None:
        for _ in range(times):
            call = guard.call(METHOD.name, {})
            assert call is not None
            judged = call.on_response_message(b"\xff\xff")
            assert judged is not None
            guard.judge([judged])

    with caplog.at_level(logging.WARNING, "tocsin"):
        broken(100)
        now[0] += 61
        broken(3)
    messages = [record.getMessage() for record in caplog.records]
    assert (
        len(messages) == 2
        and "more" not in messages[0]
        and messages[1].endswith("(and 99 more since it was last logged)")
    )


def test_news_of_different_kinds_do_not_hide_each_other() -> None:
    said = LogThrottle()
    assert [said.admit("a", "x"), said.admit("a", "y"), said.admit("b", "x"), said.admit("a", "x")] == [0, 0, 0, None]


# -- what peers put into names

HOSTILE = "m\r\n2026-01-01 00:00:00,000 INFO forged\x1b[2J\x9b31m\u2028\u202e" + "x" * 30_000


def log_of(form: str, program: str) -> list[str]:
    """The lines that a program writes which has set the log up."""
    start = f"import logging; from tocsin.cli.logs import set_up; set_up({form!r}, verbose=False)\n"
    start += f"log, hostile = logging.getLogger('tocsin'), {HOSTILE!r}\n"
    done = subprocess.run([sys.executable, "-c", start + program], capture_output=True, check=True, timeout=60)
    return done.stderr.decode().split("\n")[:-1]


RAISES = """
def answered(payload):
    try:
        raise ValueError(hostile)
    except ValueError:
        log.exception("failed")
answered("s3cret")
"""


def test_a_line_for_people_stays_one_printable_line_of_bounded_length() -> None:
    (line,) = log_of("text", "log.warning('model %s: %s', hostile, hostile, extra={'session': hostile})")
    assert line.isprintable() and len(line) < 2_200 and r"m\r\n2026-01-01" in line and r"\x1b[2J\x9b31m\u2028" in line


def test_what_grows_by_being_escaped_is_bounded_too() -> None:
    (line,) = log_of("text", "log.warning(chr(27) * 2_000)")
    assert line.isprintable() and len(line) < 2_200 and line.endswith("(2,000 characters in all)")


def test_a_traceback_holds_no_line_that_looks_like_an_entry() -> None:
    lines = log_of("text", RAISES)
    assert lines[0].endswith("ERROR failed") and len(lines) > 3
    assert all(line.startswith("  | ") and line.isprintable() and len(line) < 2_200 for line in lines[1:])


def test_a_json_line_is_bounded_in_every_field_and_shows_no_local_variable() -> None:
    (line,) = log_of("json", "log.warning('%s', hostile, extra={'session': hostile, 'found': {hostile: [hostile]}})")
    assert line.isprintable() and len(line) < 10_000
    fields = json.loads(line)
    assert fields["session"].startswith(r"m\r\n2026") and fields["level"] == "warning"
    (line,) = log_of("json", RAISES)
    assert json.loads(line)["exception"][0]["exc_type"] == "ValueError"
    assert line.isprintable() and len(line) < 10_000 and "s3cret" not in line


def test_a_name_that_a_model_server_makes_up_forges_no_line(bundle: Path, tmp_path: Path) -> None:
    listen, answer = free_port(), inference(far_away(1), slice(0, 1), model=HOSTILE)
    with model_server() as (model, address):
        model.answers = {b"far": answer}
        config = tmp_path / "tocsin.yaml"
        config.write_text(yaml.safe_dump({
            "listen": f"127.0.0.1:{listen}", "upstream": address, "metrics": None, "admin": None,
            "scoring_budget": "60s",
            "models": {"digits": {"bundle": str(bundle), "signals": SIGNALS}},
        }))  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-m", "tocsin", "serve", "-c", str(config)], stderr=subprocess.PIPE, env=at_once()
        )
        with grpc.insecure_channel(f"127.0.0.1:{listen}", TRIES_AGAIN_SOON) as channel:
            channel.unary_unary(INFER)(b"far", wait_for_ready=True, timeout=60)
        process.terminate()
        _, output = process.communicate(timeout=60)
    (line,) = [line for line in output.decode().split("\n") if "unknown_model" in line]
    assert line.isprintable() and len(line) < 2_200 and "forged" in line
    assert all(line.isprintable() for line in output.decode().split("\n"))


# -- the upstream, and calls without keys


def test_an_upstream_that_cannot_be_reached_is_told_once_a_minute(
    bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    upstream = free_port()
    with caplog.at_level(logging.WARNING, "tocsin"), running(settings(upstream, bundle)) as relay:
        for _ in range(3):
            with grpc.insecure_channel(relay.target) as channel, pytest.raises(grpc.RpcError):
                channel.unary_unary(INFER)(b"x", timeout=60)
        counted = re.search(r"tocsin_relay_upstream_failures_total (\d+)", relay.metrics)
    assert counted is not None and int(counted[1]) >= 3
    messages = [record.getMessage() for record in caplog.records]
    assert (
        len([line for line in messages if line.startswith(f"upstream 127.0.0.1:{upstream} cannot be reached: ")]) == 1
    )


@pytest.mark.parametrize("what", ["session", "group"])
def test_calls_without_a_key_are_told_once_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    bundle = in_sessions(tmp_path / "b.tocsin") if what == "session" else grouped(tmp_path / "b.tocsin")
    more = {"session": "metadata.x-session"} if what == "session" else {"group": "metadata.x-group"}
    with caplog.at_level(logging.WARNING, "tocsin"), served(bundle, **more) as relay:
        counted = f'tocsin_keyless_calls_total{{key="{what}",model="digits"}}'
        assert f"{counted} 0" in relay.metrics.splitlines()
        for row in range(4):
            ask(relay, b"%d" % row)
        ask(relay, b"1", (f"x-{what}", "calm"))
        assert f"{counted} 4" in relay.metrics.splitlines()
    messages = [record.getMessage() for record in caplog.records if "names no" in record.getMessage()]
    assert len(messages) == 1 and messages[0].startswith(
        f"model digits: a call names no {what} (metadata.x-{what} is missing"
    )
