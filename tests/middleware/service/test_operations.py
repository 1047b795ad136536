"""Claims about running a sidecar: several ports, reloading, who may use the admin port, and what stands beside."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
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
    free_port,
    quick_bundle,
    running,
    settings,
)
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.middleware.service.served import ANSWERS, credentials, metric, tls

import tocsin
from tocsin.cli.reload import reload as reload_command
from tocsin.configuration.config import Config
from tocsin.errors import ReloadError, StartError
from tocsin.judgement.guard import Guard

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
