"""Claims about TLS on either side of a sidecar: certificates are checked, and renewed without a restart."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from benchmarks.harness.by_hand import until
from benchmarks.harness.certificates import Authority
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import (
    INFER,
    running,
    settings,
)
from tests.middleware.service.served import ANSWERS, credentials, tls

from tocsin.errors import StartError

# -- TLS


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
