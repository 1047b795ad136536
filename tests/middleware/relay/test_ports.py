"""Claims about who connects to a port: silent callers, half handshakes, descriptors, HTTP/1.1, and a dead upstream."""

from __future__ import annotations

import http.server
import os
import socket
import ssl
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from benchmarks.harness.by_hand import until
from benchmarks.harness.certificates import Authority
from benchmarks.harness.model_server import Model, model_server
from benchmarks.harness.parts import INFER, SIGNALS, Running, free_port, inference, running, safe_traffic, settings
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tocsin.http2 import frames
from tocsin.relay import descriptors

ANSWER = inference(safe_traffic(1), slice(0, 1))


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with model_server() as (model, address):
        model.answers = {b"safe": ANSWER}
        yield address


def count(metrics: str, line: str) -> float:
    return sum(float(text.rpartition(" ")[2]) for text in metrics.splitlines() if text.startswith(line + " "))


def limited(relay: Running, limit: str) -> float:
    return count(relay.metrics, f'tocsin_relay_limited_total{{limit="{limit}"}}')


def connect(target: str) -> socket.socket:
    host, _, port = target.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=60)


def read_all(peer: socket.socket) -> bytes:
    """What comes until the other side closes."""
    content = b""
    with suppress(ConnectionError):
        while piece := peer.recv(65_536):
            content += piece
    return content


def ask(target: str, credentials: grpc.ChannelCredentials | None = None, seconds: float = 60) -> Any:
    opened = grpc.insecure_channel(target) if credentials is None else grpc.secure_channel(target, credentials)
    with opened as channel:
        try:
            return channel.unary_unary(INFER)(b"safe", timeout=seconds)
        except grpc.RpcError as error:
            return error.code()  # type: ignore[attr-defined]


def ready(metrics: str) -> int:
    try:
        with urllib.request.urlopen(f"http://{metrics}/readyz", timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


# -- silence


@pytest.mark.parametrize("said", [b"", frames.PREFACE[:10]], ids=["nothing", "half a preface"])
def test_who_does_not_say_what_it_speaks_is_sent_away(bundle: Path, server: str, said: bytes) -> None:
    with running(settings(server, bundle, limits={"handshake": "1s"})) as relay, connect(relay.target) as speaks:
        speaks.sendall(frames.PREFACE + frames.frame(frames.SETTINGS, 0, 0))
        connections: Any = relay.sidecar.relay.context.connections
        until(lambda: any(connection.downstream.greeted for connection in connections))
        with connect(relay.target) as silent:
            silent.sendall(said)
            read_all(silent)
        assert limited(relay, "handshake") == 1
        (still,) = relay.sidecar.relay.context.connections
        assert still.downstream.greeted  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: Any) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def tls(authority: Authority) -> dict[str, Path]:
    certificate, key = authority.sign("relay")
    return {"certificate": certificate, "key": key}


def test_half_handshakes_have_a_deadline_and_count_as_connections(
    bundle: Path, server: str, authority: Authority, tls: dict[str, Path]
) -> None:
    trusted = grpc.ssl_channel_credentials(authority.ca.read_bytes())
    limits = {"handshake": "2s", "connections": 2}
    with running(settings(server, bundle, tls=tls, limits=limits)) as relay:
        assert ask(relay.target, trusted) == ANSWER
        until(lambda: not relay.sidecar.relay.context.connections)
        with connect(relay.target) as mute, connect(relay.target) as hesitant:
            hesitant.sendall(b"\x16\x03\x01\x02\x00")  # the beginning of a ClientHello
            until(
                lambda: (
                    len(relay.sidecar.relay.context.open.handshakes) + len(relay.sidecar.relay.context.connections) == 2
                )
            )
            with connect(relay.target) as third:
                assert read_all(third) == b""
            assert limited(relay, "connections") == 1
            assert read_all(mute) == read_all(hesitant) == b""
        assert limited(relay, "handshake") == 2
        apart = [("grpc.use_local_subchannel_pool", 1)]
        keeping = [grpc.secure_channel(relay.target, trusted, apart) for _ in range(3)]  # the third finds no room
        first, second, third = (channel.unary_unary(INFER).future(b"safe", timeout=60) for channel in keeping)
        assert sorted(call.exception() is None for call in (first, second, third)) == [False, True, True]
        for channel in keeping:
            channel.close()
        until(lambda: not relay.sidecar.relay.context.connections)
        with connect(relay.target) as plain:
            plain.sendall(frames.PREFACE)
            read_all(plain)
        until(lambda: not relay.sidecar.relay.context.open.handshakes)
        assert limited(relay, "handshake") == 2


def test_what_a_caller_sends_with_the_end_of_its_handshake_is_read(
    bundle: Path, server: str, authority: Authority, tls: dict[str, Path]
) -> None:
    context = ssl.create_default_context(cafile=str(authority.ca))
    context.set_alpn_protocols(["h2"])
    with running(settings(server, bundle, tls=tls)) as relay:
        for _ in range(20):
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            client = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
            with connect(relay.target) as peer:
                while True:
                    try:
                        client.do_handshake()
                        break
                    except ssl.SSLWantReadError:
                        peer.sendall(outgoing.read())
                        incoming.write(peer.recv(65_536))
                client.write(frames.PREFACE + frames.frame(frames.SETTINGS, 0, 0))
                peer.sendall(outgoing.read())  # the last of the handshake, and the first of what follows
                answer = b""
                while len(answer) < frames.HEADER_SIZE:
                    try:
                        answer += client.read(100)
                    except ssl.SSLWantReadError:
                        incoming.write(peer.recv(65_536))
                assert frames.HEADER.unpack_from(answer)[2] == frames.SETTINGS


def test_draining_does_not_wait_for_half_handshakes(bundle: Path, server: str, tls: dict[str, Path]) -> None:
    with running(settings(server, bundle, tls=tls, drain="60s")) as relay:
        half = connect(relay.target)
        until(lambda: relay.sidecar.relay.context.open.handshakes)
    with half:
        assert read_all(half) == b""


# -- descriptors


@contextmanager
def process(folder: Path, bundle: Path, upstream: str, descriptors: int) -> Iterator[tuple[str, str, Path]]:
    """A relay with so many file descriptors: where it listens, its metrics, and its log."""
    listen, metrics = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    model = {"bundle": str(bundle), "signals": SIGNALS}
    content = {"listen": listen, "upstream": upstream, "metrics": metrics, "admin": None, "models": {"digits": model}}
    (folder / "tocsin.yaml").write_text(yaml.safe_dump(content))
    with (folder / "log").open("w") as log:
        command = f"ulimit -n {descriptors}; exec {sys.executable} -m tocsin serve -c tocsin.yaml"
        started = subprocess.Popen(["bash", "-c", command], cwd=folder, stdout=log, stderr=log, env=dict(os.environ))
    try:
        until(lambda: ready(metrics) == 200, 60)
        yield listen, metrics, folder / "log"
    finally:
        started.terminate()
        started.wait(60)


def test_running_out_of_descriptors_is_told_as_that(bundle: Path, server: str, tmp_path: Path) -> None:
    with process(tmp_path, bundle, server, 80) as (target, metrics, log):
        assert ask(target) == ANSWER
        silent = [connect(target) for _ in range(60)]
        try:
            until(lambda: ready(metrics) == 503)
            with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=60) as answer:
                metrics_text = answer.read().decode()
            assert count(metrics_text, 'tocsin_relay_limited_total{limit="descriptors"}') >= 1
            assert count(metrics_text, 'tocsin_relay_unready{reason="descriptors"}') == 1
            assert count(metrics_text, "tocsin_relay_upstream_failures_total") == 0
        finally:
            for connection in silent:
                connection.close()
        until(lambda: ready(metrics) == 200)
        assert ask(target) == ANSWER
        assert "out of file descriptors" in log.read_text()


def test_an_upstream_that_descriptors_do_not_suffice_for_is_not_blamed(
    bundle: Path, server: str, monkeypatch: Any
) -> None:
    with running(settings(server, bundle)) as relay:
        port: Any = relay.sidecar.relay.ports[0]

        async def none_left(protocol: Any) -> None:
            raise OSError(24, "Too many open files")

        monkeypatch.setattr(port, "connect_upstream", none_left)
        with grpc.insecure_channel(relay.target) as channel, pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary(INFER)(b"safe", timeout=60)
        assert "the relay is out of file descriptors" in refused.value.details()  # type: ignore[attr-defined]
        assert not relay.sidecar.is_ready
        monkeypatch.setattr(relay.sidecar.relay.context.descriptors, "_ran_out", -descriptors.UNREADY_SECONDS)
        assert relay.sidecar.is_ready


# -- an upstream that comes and goes


@contextmanager
def model_at(port: int) -> Iterator[None]:
    server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    model = Model()
    model.answers = {b"safe": ANSWER}
    server.add_generic_rpc_handlers((model,))
    assert server.add_insecure_port(f"127.0.0.1:{port}") == port
    server.start()
    try:
        yield
    finally:
        server.stop(0).wait()


def refuses(target: str) -> bool:
    try:
        connect(target).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.parametrize("follows", ["ready", "listen"])
def test_readiness_and_port_follow_the_upstream(bundle: Path, follows: str) -> None:
    upstream = free_port()
    config = settings(upstream, bundle, upstream_health=follows, admin="127.0.0.1:0")
    with running(config) as relay:
        assert relay.sidecar.http is not None
        metrics, admin = str(relay.sidecar.http.address), relay.sidecar.admin_address

        def health() -> Any:
            with grpc.insecure_channel(admin) as channel:
                request = health_pb2.HealthCheckRequest()
                return health_pb2_grpc.HealthStub(channel).Check(request, timeout=60).status

        serving = health_pb2.HealthCheckResponse.SERVING
        for _ in range(2):
            until(lambda: ready(metrics) == 503 and health() != serving)
            assert refuses(relay.target) is (follows == "listen")
            with model_at(upstream):
                until(lambda: ready(metrics) == 200 and health() == serving)
                assert ask(relay.target) == ANSWER
        until(lambda: ready(metrics) == 503)
        assert refuses(relay.target) is (follows == "listen")


def test_round_robin_over_two_relays_loses_nothing_where_the_port_follows(bundle: Path, server: str) -> None:
    with (
        running(settings(free_port(), bundle, upstream_health="listen")) as dead,
        running(settings(server, bundle, upstream_health="listen")) as alive,
    ):
        options = [("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}')]
        both = f"ipv4:{dead.target},{alive.target}"
        with grpc.insecure_channel(both, options=options) as channel:
            assert [channel.unary_unary(INFER)(b"safe", timeout=60) for _ in range(20)] == [ANSWER] * 20


def test_a_port_that_follows_waits_for_who_waits_for_it(bundle: Path) -> None:
    upstream = free_port()
    with running(settings(upstream, bundle, upstream_health="listen")) as relay:
        with grpc.insecure_channel(relay.target) as channel:
            call = channel.unary_unary(INFER).future(b"safe", timeout=60, wait_for_ready=True)
            with model_at(upstream):
                assert call.result() == ANSWER


# -- HTTP/1.1


class Slow(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"z" * 300_000
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None: ...


def test_a_half_close_leaves_the_answer(bundle: Path) -> None:
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    try:
        with running(settings(web.server_port, bundle, mode="enforce")) as relay, connect(relay.target) as peer:
            peer.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            peer.shutdown(socket.SHUT_WR)
            answer = read_all(peer)
            assert answer.startswith(b"HTTP/1.0 200") and answer.endswith(b"z" * 300_000)
            assert count(relay.metrics, 'tocsin_relay_not_understood_total{what="not_http2"}') == 1
    finally:
        web.shutdown()
        web.server_close()


@pytest.mark.parametrize("early", [True, False], ids=["asked at once", "asked once it has failed"])
def test_a_dead_upstream_says_nothing_in_http_2_to_who_does_not_speak_it(bundle: Path, early: bool) -> None:
    with running(settings(free_port(), bundle)) as relay, connect(relay.target) as peer:
        if not early:
            until(lambda: count(relay.metrics, "tocsin_relay_upstream_failures_total") == 1)
        peer.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_all(peer) == b""
