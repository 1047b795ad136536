"""Claims about alarms as events: what is told, to whom, and that nothing told is lost."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import (
    INFER,
    SIGNALS,
    at_once,
    far_away,
    free_port,
    inference,
    running,
    safe_traffic,
    settings,
)
from cloudevents.core.bindings.http import HTTPMessage, from_http_event

from tocsin.configuration.config import Config
from tocsin.configuration.events import WebhookTarget
from tocsin.errors import ConfigError
from tocsin.events.alarm_throttle import AlarmThrottle
from tocsin.events.delivery import Delivery
from tocsin.events.spool import SEGMENT_SIZE, Spool
from tocsin.events.webhook import Webhook, signed
from tocsin.names import MAX_LENGTH

KEY = base64.b64encode(b"k" * 32).decode()
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def until(true: Any, seconds: float = 60.0) -> None:
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends, "it did not happen"
        time.sleep(0.02)


class Hook:
    """A webhook's receiver: what came, and the statuses to answer with, 200 after them."""

    def __init__(self, port: int = 0) -> None:
        self.came: list[tuple[dict[str, str], bytes]] = []
        self.statuses: list[int] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.came.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(hook.statuses.pop(0) if hook.statuses else 200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/alarms"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.came]


@contextmanager
def hook(port: int = 0) -> Iterator[Hook]:
    listening = Hook(port)
    yield listening
    listening.server.shutdown()
    listening.server.server_close()


def alarming(relay: Any, calls: int, *, session: str = "", payload: bytes = b"far") -> None:
    metadata = (("traceparent", TRACE), *((("x-session", session),) if session else ()))
    with grpc.insecure_channel(relay if isinstance(relay, str) else relay.target) as channel:
        for _ in range(calls):
            channel.unary_unary(INFER)(payload, metadata=metadata, timeout=60)


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


# -- the spool


def test_a_spool_gives_back_what_it_took_in_order(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1 << 30)
    lines = [b"%d " % number + b"x" * 5_000 + b"\n" for number in range(600)]  # several segments
    assert sum(map(len, lines)) > 2 * SEGMENT_SIZE
    assert all(spool.put(line) for line in lines)
    for line in lines[:200]:
        assert spool.head() == line
        spool.done(line)
    spool.close()
    again = Spool(tmp_path, 1 << 30)
    for line in lines[200:]:
        assert again.head() == line
        again.done(line)
    assert again.head() is None
    again.close()
    assert list(tmp_path.iterdir()) == []


def test_a_full_spool_refuses_and_says_so(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 100)
    assert spool.put(b"a" * 59 + b"\n") and not spool.put(b"b" * 59 + b"\n")
    spool.done(b"a" * 59 + b"\n")
    assert spool.put(b"b" * 59 + b"\n")


def test_a_line_cut_short_by_a_kill_is_not_given_back(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1 << 20)
    spool.put(b"whole\n")
    spool.close()
    (segment,) = tmp_path.glob("*.events")
    with segment.open("ab") as file:
        file.write(b"half a li")
    again = Spool(tmp_path, 1 << 20)
    assert again.head() == b"whole\n"
    again.done(b"whole\n")
    assert again.head() is None


def test_segments_of_a_living_process_are_left_alone(tmp_path: Path) -> None:
    program = (
        "import sys, time; sys.path.insert(0, 'middleware')\n"
        "from pathlib import Path; from tocsin.events.spool import Spool\n"
        f"spool = Spool(Path({str(tmp_path)!r}), 1 << 20); spool.put(b'mine\\n'); print('ready', flush=True)\n"
        "time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    spool = Spool(tmp_path, 1 << 20)
    assert spool.head() is None
    child.send_signal(signal.SIGKILL)
    child.wait()
    spool.adopt()
    assert spool.head() == b"mine\n"


# -- delivery


def test_a_webhook_is_a_signed_cloudevent(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"whsec_{KEY}\n")
    with hook() as receiver, model_server() as (model, address):
        events = {
            "to": [{"webhook": receiver.url, "secret": tmp_path / "secret"}], "spool": tmp_path / "spool",
        }  # fmt: skip
        with running(settings(address, bundle, events=events)) as relay:
            model.answers = {b"far": inference(far_away(1), slice(0, 1))}
            alarming(relay, 1, session="s1")
            until(lambda: receiver.came)
            until(lambda: 'tocsin_events_total{outcome="delivered",target="webhook"} 1.0' in relay.metrics)
    ((headers, body),) = receiver.came
    parsed = from_http_event(HTTPMessage(headers=headers, body=body))
    assert parsed.get_type() == "tocsin.alarm.v1" and parsed.get_subject() == "digits/s1"
    assert parsed.get_data()["severity"] == "critical"  # type: ignore[index,call-overload]
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.digest(b"k" * 32, content, hashlib.sha256)).decode()
    assert headers["webhook-signature"] == f"v1,{expected}" and headers["webhook-id"] == parsed.get_id()
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60


def test_the_signature_is_that_of_the_published_example() -> None:
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    headers = signed(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_what_fails_is_tried_again_and_what_is_refused_is_not(tmp_path: Path) -> None:
    with hook() as receiver:
        receiver.statuses = [500, 429, 200, 400, 200]
        target = WebhookTarget(webhook=receiver.url)  # type: ignore[arg-type]
        delivery = Delivery("webhook", Webhook(target), Spool(tmp_path, 1 << 20))
        for number in range(3):
            delivery.put(b'{"id":"%d"}\n' % number)
        until(lambda: delivery.counts["delivered"] == 2)
        delivery.close()
    assert [event["id"] for event in receiver.events] == ["0", "0", "0", "1", "2"]
    assert delivery.counts == {"failed": 2, "delivered": 2, "rejected": 1}


def test_a_killed_tocsin_loses_no_event(bundle: Path, tmp_path: Path) -> None:
    """SIGKILL while the receiver is down; the next process delivers, once each."""
    receiving, listen = free_port(), free_port()
    with model_server() as (model, address):
        model.answers = {b"far": inference(far_away(1), slice(0, 1))}
        config = tmp_path / "tocsin.yaml"
        config.write_text(yaml.safe_dump({
            "listen": f"127.0.0.1:{listen}", "upstream": address, "mode": "annotate", "metrics": None, "admin": None,
            "scoring_budget": "60s",
            "events": {"to": [{"webhook": f"http://127.0.0.1:{receiving}/"}], "spool": "spool", "burst": 1_000},
            "models": {"digits": {"bundle": str(bundle), "signals": SIGNALS}},
        }))  # fmt: skip
        for calls in (7, 5):
            process = subprocess.Popen([sys.executable, "-m", "tocsin", "serve", "-c", str(config)], env=at_once())
            until(lambda: _listens(listen))
            alarming(f"127.0.0.1:{listen}", calls)
            process.send_signal(signal.SIGKILL)  # at once: the answer is out, so the event is safe
            process.wait()
        with hook(receiving) as receiver:
            process = subprocess.Popen([sys.executable, "-m", "tocsin", "serve", "-c", str(config)], env=at_once())
            until(lambda: len(receiver.came) >= 12)
            time.sleep(0.3)
            process.terminate()
            process.wait(60)
    assert len({event["id"] for event in receiver.events}) == len(receiver.events) == 12
    assert not list((tmp_path / "spool").rglob("*.events"))


def test_workers_tell_of_their_alarms_and_count_as_one(bundle: Path, tmp_path: Path) -> None:
    listen, metrics = free_port(), free_port()
    with hook() as receiver, model_server() as (model, address):
        model.answers = {b"far": inference(far_away(1), slice(0, 1))}
        config = tmp_path / "tocsin.yaml"
        config.write_text(yaml.safe_dump({
            "listen": f"127.0.0.1:{listen}", "upstream": address, "metrics": f"127.0.0.1:{metrics}", "admin": None,
            "scoring_budget": "60s",
            "events": {"to": [{"webhook": receiver.url}], "spool": "spool", "burst": 1_000}, "workers": 2,
            "models": {"digits": {"bundle": str(bundle), "signals": SIGNALS}},
        }))  # fmt: skip
        process = subprocess.Popen([sys.executable, "-m", "tocsin", "serve", "-c", str(config)], env=at_once())
        until(lambda: _ready(metrics), 60)
        for _ in range(8):
            alarming(f"127.0.0.1:{listen}", 2)
        until(lambda: len(receiver.came) == 16)
        until(lambda: 'target="webhook"} 16.0' in _fetch(metrics, "metrics"))
        process.terminate()
        process.wait(60)
    assert len({event["id"] for event in receiver.events}) == 16


def test_a_real_alertmanager_has_the_alert(bundle: Path, tmp_path: Path) -> None:
    program = shutil.which("prometheus-alertmanager")
    assert program, "prometheus-alertmanager is missing: apt-get install prometheus-alertmanager"
    port = free_port()
    (tmp_path / "am.yml").write_text("route: {receiver: nobody}\nreceivers: [{name: nobody}]\n")
    options = [f"--config.file={tmp_path}/am.yml", f"--storage.path={tmp_path}/am", "--cluster.listen-address="]
    alertmanager = subprocess.Popen([program, *options, f"--web.listen-address=127.0.0.1:{port}"], stderr=-3)
    try:
        until(lambda: _listens(port))
        events = {"to": [{"alertmanager": f"http://127.0.0.1:{port}"}], "spool": tmp_path / "spool", "window": "300ms",
                  "burst": 1}  # fmt: skip
        with model_server() as (model, address), running(settings(address, bundle, events=events)) as relay:
            model.answers = {b"far": inference(far_away(1), slice(0, 1))}
            alarming(relay, 5, session="s1")
            until(lambda: len(json.loads(_fetch(port, "api/v2/alerts"))) == 2)
        alerts_there = json.loads(_fetch(port, "api/v2/alerts"))
    finally:
        alertmanager.kill()
        alertmanager.wait()
    single = next(alert for alert in alerts_there if "alarm_id" in alert["annotations"])
    assert {"alertname": "TocsinAlarm", "model": "digits", "severity": "critical", "version": "v1"}.items() <= (
        single["labels"].items()
    )
    assert single["annotations"]["session"] == "s1"
    assert any("4 more critical alarms" in alert["annotations"]["summary"] for alert in alerts_there)


def test_kafka_has_every_event_keyed_by_model_and_session(bundle: Path, tmp_path: Path) -> None:
    from confluent_kafka import Consumer, Producer

    cluster = Producer({"bootstrap.servers": "ignored", "test.mock.num.brokers": 1})  # librdkafka's own broker
    broker = next(iter(cluster.list_topics(timeout=60).brokers.values()))
    where = f"{broker.host}:{broker.port}"
    events = {"to": [{"kafka": where, "topic": "alarms"}], "spool": tmp_path / "spool"}
    with model_server() as (model, address), running(settings(address, bundle, events=events)) as relay:
        model.answers = {b"far": inference(far_away(1), slice(0, 1))}
        alarming(relay, 1, session="s1")
        alarming(relay, 1, session="s2")
        until(lambda: 'tocsin_events_total{outcome="delivered",target="kafka"} 2.0' in relay.metrics)
    consumer = Consumer({"bootstrap.servers": where, "group.id": "test", "auto.offset.reset": "earliest"})
    consumer.subscribe(["alarms"])
    came: list[Any] = []
    ends = time.monotonic() + 60
    while len(came) < 2 and time.monotonic() < ends:
        message = consumer.poll(1)
        if message is not None and message.error() is None:
            came.append(message)
    consumer.close()
    assert sorted(message.key() for message in came) == [b"digits/s1", b"digits/s2"]
    assert {json.loads(message.value())["type"] for message in came} == {"tocsin.alarm.v1"}


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


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _fetch(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=60) as answer:
        return str(answer.read().decode())


def _ready(port: int) -> bool:
    try:
        return _fetch(port, "readyz") == "ready\n"
    except OSError:
        return False
