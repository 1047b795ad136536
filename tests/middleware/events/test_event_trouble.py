"""Claims about events when receivers, disks and peers misbehave: nothing is lost unseen, and nothing goes elsewhere."""

from __future__ import annotations

import base64
import json
import logging
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
from benchmarks.harness.by_hand import until
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import INFER, far_away, inference, running, settings

from tocsin.addresses import redacted_url
from tocsin.configuration.events import AlertmanagerTarget, WebhookTarget
from tocsin.events.alarm import SUM
from tocsin.events.alertmanager import Alertmanager, alerts
from tocsin.events.delivery import Delivery
from tocsin.events.json_lines import JsonLines
from tocsin.events.post import Rejected, post
from tocsin.events.spool import Spool
from tocsin.events.webhook import Webhook

EVENT = b'{"id":"1","subject":"m"}\n'


class Receiver:
    """Answers POSTs by `answer`; keeps what came."""

    def __init__(self, answer: Callable[[BaseHTTPRequestHandler], None]) -> None:
        self.came: list[tuple[str, dict[str, str], bytes]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.came.append((self.path, {n.lower(): v for n, v in self.headers.items()}, body))
                answer(self)

            def do_GET(self) -> None:
                receiver.came.append((self.path, {}, b"GET"))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign,assignment]
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@contextmanager
def receiver(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[Receiver]:
    listening = Receiver(answer)
    yield listening
    listening.server.shutdown()
    listening.server.server_close()


def status(code: int, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()

    return answer


# -- receivers


@pytest.mark.parametrize("code", [301, 302, 307])
@pytest.mark.parametrize("kind", ["webhook", "alertmanager"])
def test_a_redirect_has_not_taken_the_event_and_nothing_goes_along(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, code: int, kind: str
) -> None:
    (tmp_path / "secret").write_text("whsec_" + base64.b64encode(b"k" * 32).decode())
    alarm = {
        "model": "m",
        "severity": "critical",
        "p": 0.1,
        "reasons": [],
        "trace_id": "",
        "session": "",
        "version": "",
    }
    event = {"id": "1", "type": "tocsin.alarm.v1", "time": "2026-01-01T00:00:00Z", "source": "/x", "data": alarm}
    with receiver(status(200)) as elsewhere, receiver(status(code, Location=f"{elsewhere.url}/token")) as first:
        destination = (
            Webhook(WebhookTarget(webhook=f"{first.url}/hook", secret=tmp_path / "secret"))  # type: ignore[arg-type]
            if kind == "webhook"
            else Alertmanager(AlertmanagerTarget(alertmanager=first.url))  # type: ignore[arg-type]
        )
        with caplog.at_level(logging.WARNING, "tocsin"):
            delivery = Delivery(kind, destination, Spool(tmp_path / "spool", 1 << 20))
            delivery.put(json.dumps(event).encode() + b"\n")
            until(lambda: delivery.counts["failed"] >= 2)
            assert delivery.waiting > 0
            delivery.close()
    assert not elsewhere.came and len(first.came) >= 2
    assert delivery.counts["delivered"] == delivery.counts["rejected"] == 0
    assert "it redirects" in caplog.text and "token" not in caplog.text


def trickles(handler: BaseHTTPRequestHandler) -> None:
    """Never silent for long, and never done."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    for _ in range(400):
        handler.wfile.write(b"x")
        handler.wfile.flush()
        time.sleep(0.05)


def test_the_timeout_is_that_of_the_whole_request() -> None:
    with receiver(trickles) as slow, pytest.raises(OSError, match=r"no answer within 0\.3 s"):
        post(slow.url, b"{}", {}, 0.3)


def test_a_receiver_that_never_ends_its_handshake_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(OSError, match="no answer within"):
            post(f"https://127.0.0.1:{silent.getsockname()[1]}/", b"{}", {}, 0.3)
        peer, _ = silent.accept()
        with peer:
            peer.settimeout(60)
            while peer.recv(4096):  # its hello, and then the end
                pass


def test_a_broken_answer_has_taken_nothing() -> None:
    for answer in (
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 \xff\r\n\r\n",
    ):
        with socket.create_server(("127.0.0.1", 0)) as server:

            def serve(server: socket.socket = server, answer: bytes = answer) -> None:
                peer, _ = server.accept()
                with peer:
                    peer.recv(4096)
                    peer.sendall(answer)

            threading.Thread(target=serve, daemon=True).start()
            with pytest.raises(OSError):
                post(f"http://127.0.0.1:{server.getsockname()[1]}/", b"{}", {}, 10)


def test_a_user_in_the_url_is_shown_to_the_receiver_and_to_nobody_else() -> None:
    with receiver(status(403)) as hook:
        url = hook.url.replace("//", "//user:p%40ss@") + "/services/T0KEN?key=s3cret"
        with pytest.raises(Rejected) as caught:
            post(url, b"{}", {}, 10)
    assert hook.came[0][1]["authorization"] == "Basic " + base64.b64encode(b"user:p@ss").decode()
    assert hook.came[0][0] == "/services/T0KEN?key=s3cret"
    assert str(caught.value) == f"{hook.url}: HTTP 403 Forbidden"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://user:pw@hooks.example:8443/T0KEN?x=1#y", "https://hooks.example:8443"),
        ("http://[::1]:80/x", "http://[::1]:80"),
        ("redis://:pw@h/0", "redis://h"),
        ("http://h:port/pw", "a URL that cannot be read"),
    ],
)
def test_an_address_is_shown_without_what_lets_others_in(url: str, expected: str) -> None:
    assert redacted_url(url) == expected


@pytest.mark.parametrize("where", ["webhook", "alertmanager"])
def test_no_secret_of_a_url_is_logged(
    bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    with receiver(status(400)) as hook, model_server() as (model, address):
        model.answers = {b"far": inference(far_away(1), slice(0, 1))}
        url = hook.url.replace("//", "//us3r:passw0rd@") + "/T0KEN"
        events = {"to": [{where: url}], "spool": tmp_path / "spool"}
        with caplog.at_level(logging.DEBUG), running(settings(address, bundle, events=events)) as relay:
            with grpc.insecure_channel(relay.target) as channel:
                channel.unary_unary(INFER)(b"far", timeout=60)
            until(lambda: f'outcome="rejected",target="{where}"}} 1.0' in relay.metrics)
    assert "an event was refused and is lost" in caplog.text
    assert not any(secret in caplog.text for secret in ("us3r", "passw0rd", "T0KEN"))


# -- disks

FILLS = """
import logging, resource, signal, sys
from pathlib import Path
from tocsin.events.json_lines import JsonLines
from tocsin.events.spool import Spool
logging.basicConfig(level=logging.INFO, format="%(message)s")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path(sys.argv[1])
out = JsonLines(path / "alarms.jsonl")
spool = Spool(path / "spool", 1 << 30)
line = b'{"id":"%05d","filled":"' + b"x" * 700 + b'"}\\n'
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
kept = 0
for number in range(30):
    out.put(line % number)
    try:
        kept += spool.put(line % number)
    except OSError as error:
        pass
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
out.put(line % 99)
assert spool.put(line % 99)
print(dict(out.counts), kept, len(spool.head()))
"""


def test_a_full_disk_glues_no_two_events_together_and_is_logged(tmp_path: Path) -> None:
    """What a file may hold at most is what a full disk is: a write is cut short, the next one fails."""
    done = subprocess.run([sys.executable, "-c", FILLS, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "alarms.jsonl").read_text().splitlines()
    identifiers = [json.loads(line)["id"] for line in lines]
    assert identifiers == [*(f"{number:05}" for number in range(13)), "00099"]  # 13 fit into 10,000 bytes
    assert f"{{'delivered': 14, 'dropped': 17}} 13 {len(lines[0]) + 1}" in done.stdout
    assert done.stderr.count("cannot be written to") == 1 and "File too large" in done.stderr
    spool = Spool(tmp_path / "spool", 1 << 30)
    spooled = []
    while (line := spool.head()) is not None:
        spooled.append(json.loads(line)["id"])
        spool.done(line)
    assert spooled == identifiers


def test_half_a_line_of_a_process_that_was_killed_stays_alone(tmp_path: Path) -> None:
    path = tmp_path / "alarms.jsonl"
    path.write_bytes(b'{"id":"0"}\n{"id":"1","sub')
    out = JsonLines(path)
    out.put(EVENT)
    assert path.read_bytes() == b'{"id":"0"}\n{"id":"1","sub\n' + EVENT


def test_several_processes_may_append_to_one_file(tmp_path: Path) -> None:
    path = tmp_path / "alarms.jsonl"
    outs = [JsonLines(path) for _ in range(4)]

    def append(number: int) -> None:
        for _ in range(200):
            outs[number].put(b'{"id":"%d"}\n' % number)

    threads = [threading.Thread(target=append, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    identifiers = [json.loads(line)["id"] for line in path.read_text().splitlines()]
    assert [identifiers.count(str(number)) for number in range(4)] == [200] * 4


def test_a_spool_that_cannot_be_written_is_told_and_what_is_no_event_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = Spool(tmp_path, 1 << 20)
    spool.put(b'{"id":"0","sub{"id":"1"}\n')  # two that an earlier version has glued together
    with receiver(status(200)) as hook, caplog.at_level(logging.ERROR, "tocsin"):
        delivery = Delivery("webhook", Webhook(WebhookTarget(webhook=hook.url)), spool)  # type: ignore[arg-type]
        delivery.put(EVENT)
        until(lambda: delivery.counts["delivered"] == 1)
        delivery.put(b"x" * (2 << 20) + b"\n")
        delivery.put(b"x" * (2 << 20) + b"\n")
        delivery.close()
    assert [body for _, _, body in hook.came] == [EVENT.rstrip()]
    assert delivery.counts == {"rejected": 1, "delivered": 1, "dropped": 2}
    assert caplog.text.count("is lost: the spool is full") == 1 and "is no event" in caplog.text


def test_files_with_events_are_their_owners_alone(bundle: Path, tmp_path: Path) -> None:
    with receiver(status(503)) as hook, model_server() as (model, address):
        model.answers = {b"far": inference(far_away(1), slice(0, 1))}
        events = {"to": [{"file": tmp_path / "alarms.jsonl"}, {"webhook": hook.url}], "spool": tmp_path / "spool"}
        with running(settings(address, bundle, events=events)) as relay:
            with grpc.insecure_channel(relay.target) as channel:
                channel.unary_unary(INFER)(b"far", timeout=60)
            modes = {path.stat().st_mode & 0o077 for path in tmp_path.rglob("*") if path.is_file()}
            assert modes == {0} and len(list(tmp_path.rglob("*.events"))) == 1
            assert (tmp_path / "spool" / "1-webhook").stat().st_mode & 0o077 == 0


# -- what is told


def test_a_sum_tells_the_version_of_its_alarms(bundle: Path, tmp_path: Path) -> None:
    events = {"to": [{"file": tmp_path / "alarms.jsonl"}], "window": "300ms", "burst": 1}
    with model_server() as (model, address), running(settings(address, bundle, events=events)) as relay:
        model.answers = {b"far": inference(far_away(1), slice(0, 1))}
        with grpc.insecure_channel(relay.target) as channel:
            for _ in range(8):
                channel.unary_unary(INFER)(b"far", timeout=60)
    lines = [json.loads(line) for line in (tmp_path / "alarms.jsonl").read_text().splitlines()]
    sums = [event for event in lines if event["type"] == SUM]
    assert sums and all((event["data"]["version"], event["data"]["versions"]) == ("v1", ["v1"]) for event in sums)
    assert {alert["labels"]["version"] for event in lines for alert in alerts(event, 60)} == {"v1"}


def test_tls_still_reaches_a_receiver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.harness.certificates import Authority

    authority = Authority(tmp_path / "ca")
    certificate, key = authority.sign("hook")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
    with receiver(status(204)) as hook:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        hook.server.socket = context.wrap_socket(hook.server.socket, server_side=True)
        post(hook.url.replace("http:", "https:") + "/x", EVENT, {}, 10)
    assert hook.came[0][2] == EVENT
