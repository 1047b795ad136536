"""Claims about running a sidecar: TLS, several ports, limits, reloading, and who may use the admin port."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from benchmarks.harness.by_hand import until
from benchmarks.harness.certificates import Authority
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import (
    INFER,
    SIGNALS,
    Running,
    far_away,
    free_port,
    inference,
    quick_bundle,
    running,
    safe_traffic,
    settings,
)
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hyperframe.frame import GoAwayFrame, HeadersFrame, PingFrame, RstStreamFrame, SettingsFrame

import tocsin
from tocsin.cli.reload import reload as reload_command
from tocsin.configuration.config import Config
from tocsin.errors import ReloadError, StartError
from tocsin.http2.frames import PREFACE
from tocsin.http2.header_literals import block
from tocsin.judgement.guard import Guard

ANSWERS = {b"safe": inference(safe_traffic(4, seed=3), slice(0, 1)), b"far": inference(far_away(1), slice(0, 1))}


def metric(relay: Running, line: str) -> float:
    samples = [text for text in relay.metrics.splitlines() if text.startswith(line + " ")]
    return float(samples[0].rpartition(" ")[2]) if samples else 0.0


# -- TLS


def credentials(ca: Path, pair: tuple[Path, Path] | None = None) -> grpc.ChannelCredentials:
    certificate, key = pair or (None, None)
    return grpc.ssl_channel_credentials(
        ca.read_bytes(), key and key.read_bytes(), certificate and certificate.read_bytes()
    )


def tls(pair: tuple[Path, Path], client_ca: Path | None = None) -> dict[str, Any]:
    return {"certificate": pair[0], "key": pair[1], **({"client_ca": client_ca} if client_ca else {})}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def ask(target: str, shown: grpc.ChannelCredentials, request: bytes = b"safe") -> Any:
    with grpc.secure_channel(target, shown) as channel:
        return channel.unary_unary(INFER)(request, timeout=60)


@pytest.mark.parametrize("mode", ["annotate", "enforce"])
def test_mutual_tls_on_both_sides(bundle: Path, authority: Authority, mode: str) -> None:
    server, relay_pair, client = (authority.sign(name) for name in ("server", "relay", "client"))
    shown = grpc.ssl_server_credentials(
        [(server[1].read_bytes(), server[0].read_bytes())], authority.ca.read_bytes(), require_client_auth=True
    )
    with model_server(credentials=shown) as (model, address):
        model.answers = ANSWERS
        upstream_tls = {"ca": authority.ca, "certificate": relay_pair[0], "key": relay_pair[1]}
        config = settings(
            address, bundle, mode=mode, tls=tls(relay_pair, authority.ca), upstream_tls=upstream_tls
        )  # fmt: skip
        with running(config) as relay:
            assert ask(relay.target, credentials(authority.ca, client)) == ANSWERS[b"safe"]
            large = bytes(1 << 20)
            assert ask(relay.target, credentials(authority.ca, client), large) == large
            with pytest.raises(grpc.RpcError):
                ask(relay.target, credentials(authority.ca))
            with pytest.raises(grpc.RpcError), grpc.insecure_channel(relay.target) as plain:
                plain.unary_unary(INFER)(b"safe", timeout=60)


def test_tls_towards_a_model_server_without_it_says_what_to_change(bundle: Path, authority: Authority) -> None:
    with model_server() as (_, address), running(settings(address, bundle, upstream_tls={"ca": authority.ca})) as relay:
        with grpc.insecure_channel(relay.target) as channel, pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(INFER)(b"safe", timeout=60)
    assert "it answers without TLS; leave upstream_tls out" in caught.value.details()  # type: ignore[attr-defined]


def test_an_upstream_whose_certificate_does_not_fit_is_unavailable(bundle: Path, tmp_path: Path) -> None:
    ours, others = Authority(tmp_path / "a", "ours"), Authority(tmp_path / "b", "others")
    pair = others.sign("server")
    shown = grpc.ssl_server_credentials([(pair[1].read_bytes(), pair[0].read_bytes())])
    with model_server(credentials=shown) as (_, address):
        with running(settings(address, bundle, upstream_tls={"ca": ours.ca})) as relay:
            with pytest.raises(grpc.RpcError) as caught, grpc.insecure_channel(relay.target) as channel:
                channel.unary_unary(INFER)(b"safe", timeout=60)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]
    assert "cannot be reached" in caught.value.details()  # type: ignore[attr-defined]


def test_new_certificates_are_used_without_a_restart_and_broken_ones_are_not(bundle: Path, tmp_path: Path) -> None:
    first, second = Authority(tmp_path / "a", "first"), Authority(tmp_path / "b", "second")
    pair = first.sign("relay")
    with model_server() as (model, address):
        model.answers = ANSWERS
        config = settings(address, bundle, tls=tls(pair), reload_certificates="1s")
        with running(config) as relay:
            with grpc.secure_channel(relay.target, credentials(first.ca)) as lasting:
                call = lasting.unary_unary(INFER)
                assert call(b"safe", timeout=60) == ANSWERS[b"safe"]
                pair[0].write_text("nonsense")
                time.sleep(2.5)
                assert ask(relay.target, credentials(first.ca)) == ANSWERS[b"safe"]
                renewed = second.sign("relay")
                pair[1].write_bytes(renewed[1].read_bytes())
                pair[0].write_bytes(renewed[0].read_bytes())
                until(lambda: _trusts(relay.target, second.ca))
                assert not _trusts(relay.target, first.ca)
                assert call(b"safe", timeout=60) == ANSWERS[b"safe"]  # on the connection that was there


def _trusts(target: str, ca: Path) -> bool:
    try:
        return bool(ask(target, credentials(ca)))
    except grpc.RpcError:
        return False


def test_a_certificate_that_has_expired_is_refused_by_callers(bundle: Path, authority: Authority) -> None:
    pair = authority.sign("late", days=-1)
    with model_server() as (_, address), running(settings(address, bundle, tls=tls(pair))) as relay:
        with pytest.raises(grpc.RpcError) as caught:
            ask(relay.target, credentials(authority.ca))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]


def test_a_certificate_that_is_missing_is_told_at_start(bundle: Path, tmp_path: Path) -> None:
    config = settings(1, bundle, tls={"certificate": tmp_path / "none.pem", "key": tmp_path / "none.key"})
    with pytest.raises(StartError, match=r"tls: a certificate cannot be used.*none\.pem"), running(config):
        pass


# -- ports


def test_several_ports_lead_to_several_model_servers(bundle: Path, tmp_path: Path) -> None:
    with model_server() as (first_model, first), model_server() as (second_model, second):
        first_model.answers, second_model.answers = ANSWERS, {b"safe": ANSWERS[b"far"]}
        path = tmp_path / "second.sock"
        config = settings(first, bundle, listeners=[{"listen": f"unix:{path}", "upstream": second}])
        with running(config) as relay:
            with grpc.insecure_channel(relay.target) as channel, grpc.insecure_channel(f"unix:{path}") as other:
                assert channel.unary_unary(INFER)(b"safe", timeout=60) == ANSWERS[b"safe"]
                response, call = other.unary_unary(INFER).with_call(b"safe", timeout=60)
            assert response == ANSWERS[b"far"] and tocsin.verdict(call).severity == "critical"


def test_the_port_tells_the_model_where_the_protocol_does_not(tmp_path: Path) -> None:
    import numpy as np

    from tocsin.protocols.protocol import preset
    from tocsin_calibration import Bundle, calibrate
    from tocsin_detectors import Mahalanobis, Observations, compile

    safe = Observations({"embedding": np.random.default_rng(0).normal(size=(600, 8))})
    scorer = compile([Mahalanobis()], fit_on=safe.take(slice(0, 300)))
    Bundle(scorer, calibrate(scorer(safe.take(slice(300, None))), {"warning": 0.1}), "e").write(tmp_path / "e.tocsin")
    embed = preset("tei")["/tei.v1.Embed/Embed"]
    answer = embed.answer({"embeddings": safe["embedding"][0].tolist()}).SerializeToString()
    model = {"bundle": tmp_path / "e.tocsin", "protocol": "tei"}
    with model_server() as (server, address):
        server.answers = {b"x": answer}
        listeners = [{"listen": f"unix:{tmp_path}/b.sock", "upstream": address, "model": "b"}]
        config = Config(
            listen=f"unix:{tmp_path}/a.sock", upstream=address, mode="annotate", metrics=None, admin=None,
            listeners=listeners, models={"a": model, "b": model},
        )  # fmt: skip
        with running(config):
            reported = []
            for name in ("a", "b"):
                with grpc.insecure_channel(f"unix:{tmp_path}/{name}.sock") as channel:
                    _, call = channel.unary_unary(embed.name).with_call(b"x", timeout=60)
                    reported.append((tocsin.verdict(call).model, tocsin.verdict(call).unscored))
    assert reported == [("other", "unknown_model"), ("b", None)]


# -- limits


@contextmanager
def wire(target: str) -> Iterator[Any]:
    """A client that speaks frames by hand."""
    host, _, port = target.rpartition(":")
    with socket.create_connection((host, int(port))) as peer:
        peer.settimeout(60)
        peer.sendall(PREFACE + SettingsFrame(0).serialize() + SettingsFrame(0, flags=["ACK"]).serialize())
        yield peer


ASK = block([(":method", "POST"), (":scheme", "http"), (":path", "/test.Model/Unary"), (":authority", "x"),
             ("content-type", "application/grpc"), ("te", "trailers")])  # fmt: skip


def closed(peer: Any) -> bytes:
    """Everything until the other side closes."""
    received = b""
    try:
        while content := peer.recv(65_536):
            received += content
    except ConnectionResetError:
        pass
    return received


@pytest.mark.parametrize(
    ("limit", "flood"),
    [
        (
            "resets",
            lambda n: HeadersFrame(n, data=ASK, flags=["END_HEADERS"]).serialize() + RstStreamFrame(n).serialize(),
        ),
        ("controls", lambda n: SettingsFrame(0).serialize()),
    ],
)
def test_floods_end_the_connection_and_not_the_relay(bundle: Path, limit: str, flood: Any) -> None:
    with model_server() as (model, address):
        model.answers = ANSWERS
        config = settings(address, bundle, limits={"resets": 100, "controls": 100})
        with running(config) as relay:
            with wire(relay.target) as peer:
                try:
                    for number in range(400):
                        peer.sendall(flood(2 * number + 1))
                except OSError:
                    pass
                assert GoAwayFrame(0, error_code=0xB).serialize()[3:9] in closed(peer)
            assert metric(relay, f'tocsin_relay_limited_total{{limit="{limit}"}}') == 1
            with grpc.insecure_channel(relay.target) as channel:
                assert channel.unary_unary(INFER)(b"safe", timeout=60) == ANSWERS[b"safe"]


def test_a_flood_of_pings_ends_the_connection_where_the_upstream_would_bear_it(bundle: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as patient:
        config = settings(patient.getsockname()[1], bundle, limits={"controls": 100})
        with running(config) as relay, wire(relay.target) as peer:
            with suppress(OSError):
                peer.sendall(PingFrame(0, b"pingpong").serialize() * 400)
            assert GoAwayFrame(0, error_code=0xB).serialize()[3:9] in closed(peer)
            assert metric(relay, 'tocsin_relay_limited_total{limit="controls"}') == 1


def test_calls_and_headers_beyond_the_limits_are_refused_one_by_one(bundle: Path) -> None:
    with model_server() as (_, address):
        config = settings(address, bundle, limits={"streams": 3, "headers": "4KiB"})
        with running(config) as relay, grpc.insecure_channel(relay.target) as channel:
            call = channel.unary_unary("/test.Model/Unary")
            assert call(b"x", timeout=60) == b"x"
            waiting = [call.future(b"x", metadata=(("sleep", "1"),), timeout=60) for _ in range(6)]
            codes = [future.exception().code() if future.exception() else None for future in waiting]
            assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 3 and codes.count(None) == 3
            with pytest.raises(grpc.RpcError) as caught:
                call(b"x", metadata=(("x-long", "y" * 5_000),), timeout=60)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # type: ignore[attr-defined]
            assert call(b"x", timeout=60) == b"x"
            assert metric(relay, 'tocsin_relay_limited_total{limit="streams"}') == 3


def test_connections_beyond_the_limit_are_closed_and_idle_ones_sent_away(bundle: Path) -> None:
    with model_server() as (_, address):
        config = settings(address, bundle, limits={"connections": 2, "idle": "1s"})
        with running(config) as relay:
            with wire(relay.target), wire(relay.target), wire(relay.target) as third:
                assert closed(third) == b""
                assert metric(relay, 'tocsin_relay_limited_total{limit="connections"}') == 1
                until(lambda: metric(relay, "tocsin_relay_connections") == 0)
            assert metric(relay, 'tocsin_relay_limited_total{limit="idle"}') == 2


# -- reloading


@contextmanager
def from_file(path: Path, content: dict[str, Any]) -> Iterator[Running]:
    path.write_text(yaml.safe_dump(content))
    config = Config.load(path)
    guard = Guard.open(config)
    with running(config, guard, path=path) as relay:
        yield relay


def written(address: str, bundle: Path, **more: Any) -> dict[str, Any]:
    return {
        "listen": f"127.0.0.1:{free_port()}",
        "upstream": address,
        "mode": "annotate",
        "metrics": "127.0.0.1:0",
        "admin": "127.0.0.1:0",
        "scoring_budget": "60s",
        "models": {"digits": {"bundle": str(bundle), "signals": SIGNALS}},
        **more,
    }


def test_a_new_bundle_and_mode_are_taken_up_while_calls_go_on(bundle: Path, tmp_path: Path) -> None:
    with model_server() as (model, address):
        model.answers = ANSWERS
        path = tmp_path / "t.yaml"
        content = written(address, bundle)
        with from_file(path, content) as relay, grpc.insecure_channel(relay.target) as channel:
            call = channel.unary_unary(INFER)
            _, first = call.with_call(b"far", timeout=60)
            other = quick_bundle(tmp_path / "other.tocsin", rule="all")
            content["models"]["digits"] |= {"bundle": "other.tocsin", "on_alarm": {"critical": "block"}}
            path.write_text(yaml.safe_dump({**content, "mode": "enforce"}))
            report = relay.call(relay.sidecar.reloader.reload())
            assert "model digits (sha256:" in report and "mode enforce" in report
            until(lambda: _status(call, b"far") is grpc.StatusCode.PERMISSION_DENIED)
            _, later = call.with_call(b"safe", timeout=60)
            assert other.digest.startswith(tocsin.verdict(later).bundle)
            assert not other.digest.startswith(tocsin.verdict(first).bundle)
            assert metric(relay, 'tocsin_alarms_total{model="digits",severity="critical",version="v1"}') == 2
            assert metric(relay, 'tocsin_reloads_total{outcome="done"}') == 1


def _status(call: Any, request: bytes) -> Any:
    try:
        return call.with_call(request, timeout=60)[1].code()
    except grpc.RpcError as error:
        return error.code()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "strict"}, "mode: "),
        ({"models": {"digits": {"bundle": "none.tocsin", "signals": SIGNALS}}}, "none.tocsin"),
        ({"listen": "127.0.0.1:1"}, "listen: cannot change while serving"),
    ],
)
def test_what_is_broken_keeps_the_old_and_says_so(
    bundle: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with model_server() as (model, address):
        model.answers = ANSWERS
        path, content = tmp_path / "t.yaml", written(address, bundle)
        with from_file(path, content) as relay:
            path.write_text(yaml.safe_dump({**content, **change}))
            with pytest.raises(ReloadError, match=message):
                reload_command(relay.sidecar.admin_address)
            assert metric(relay, 'tocsin_reloads_total{outcome="failed"}') == 1
            with grpc.insecure_channel(relay.target) as channel:
                _, call = channel.unary_unary(INFER).with_call(b"far", timeout=60)
                assert tocsin.verdict(call).severity == "critical"
            path.write_text(yaml.safe_dump(content))
            reload_command(relay.sidecar.admin_address)


def test_a_reload_where_no_admin_port_is_says_which_address_it_wants() -> None:
    with pytest.raises(ReloadError, match="--to names the address of `admin`"):
        reload_command(f"127.0.0.1:{free_port()}")


# -- the admin port


def test_health_is_for_all_and_the_rest_for_those_with_the_token(bundle: Path, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    path = tmp_path / "t.yaml"
    with model_server() as (_, address):
        content = written(address, bundle, admin="0.0.0.0:0", admin_token=str(token))
        with from_file(path, content) as relay:
            target = relay.sidecar.admin_address.replace("0.0.0.0", "127.0.0.1")
            with grpc.insecure_channel(target) as channel:
                health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
            assert health.status == health_pb2.HealthCheckResponse.SERVING
            with pytest.raises(ReloadError, match="token"):
                reload_command(target)
            wrong = tmp_path / "wrong"
            wrong.write_text("guess")
            with pytest.raises(ReloadError, match="token"):
                reload_command(target, wrong)
            reload_command(target, token)


def test_an_open_admin_port_is_refused_at_start(bundle: Path) -> None:
    with pytest.raises(StartError, match="set admin_token"), running(settings(1, bundle, admin="0.0.0.0:0")):
        pass


def test_the_admin_port_may_ask_for_certificates(bundle: Path, authority: Authority) -> None:
    pair, client = authority.sign("admin"), authority.sign("operator")
    config = settings(1, bundle, admin="127.0.0.1:0", admin_tls=tls(pair, authority.ca))
    with running(config) as relay:
        with grpc.secure_channel(relay.sidecar.admin_address, credentials(authority.ca, client)) as channel:
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
        with pytest.raises(grpc.RpcError):
            with grpc.secure_channel(relay.sidecar.admin_address, credentials(authority.ca)) as channel:
                health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=2)


# -- others beside


def test_a_verdict_made_behind_is_taken_and_not_made_again(bundle: Path) -> None:
    with model_server() as (model, address):
        model.answers = ANSWERS
        with running(settings(address, bundle)) as behind:
            config = settings(behind.target, bundle, accept_verdicts=True, mode="enforce")
            config.models["digits"].on_alarm = type(config.models["digits"])(
                signals=SIGNALS, on_alarm={"critical": "block"}
            ).on_alarm
            with running(config) as before, grpc.insecure_channel(before.target) as channel:
                call = channel.unary_unary(INFER)
                _, done = call.with_call(b"safe", timeout=60)
                values = [value for key, value in done.trailing_metadata() if key == "tocsin-verdict"]
                assert len(values) == 1
                assert _status(call, b"far") is grpc.StatusCode.PERMISSION_DENIED  # as this one does about alarms
                assert metric(before, "tocsin_relay_accepted_verdicts_total") == 2
                assert not re.search(r"tocsin_responses_total{.*} [^0]", before.metrics)


def test_a_candidate_is_scored_beside_the_live_bundle_and_never_acts(bundle: Path, tmp_path: Path) -> None:
    candidate = quick_bundle(tmp_path / "c.tocsin", rule="all")
    with model_server() as (model, address):
        model.answers = ANSWERS
        config = settings(address, bundle)
        config.models["digits"].shadow = tmp_path / "c.tocsin"
        with running(config) as relay, grpc.insecure_channel(relay.target) as channel:
            for request in (b"safe", b"far", b"far"):
                _, call = channel.unary_unary(INFER).with_call(request, timeout=60)
                assert not candidate.digest.startswith(tocsin.verdict(call).bundle)
            series = 'tocsin_shadow_responses_total{live="critical",model="digits",severity="critical"}'
            until(lambda: metric(relay, series) == 2)
