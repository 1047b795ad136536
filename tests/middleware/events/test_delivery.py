"""Claims about the delivery of alarms: the spool keeps what was told, and each receiver gets all of it."""

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
import time
import urllib.request
from pathlib import Path
from typing import Any

import yaml
from benchmarks.harness.by_hand import until
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import (
    SIGNALS,
    at_once,
    far_away,
    free_port,
    inference,
    running,
    settings,
)
from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from tests.middleware.events.hook import alarming, hook

from tocsin.configuration.events import WebhookTarget
from tocsin.events.delivery import Delivery
from tocsin.events.spool import SEGMENT_SIZE, Spool
from tocsin.events.webhook import Webhook, signed

KEY = base64.b64encode(b"k" * 32).decode()


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
