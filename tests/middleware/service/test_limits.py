"""Claims about a sidecar's limits: what exceeds one is refused, or ends its connection, and nobody else's."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from benchmarks.harness.by_hand import until
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import (
    INFER,
    running,
    settings,
)
from hyperframe.frame import GoAwayFrame, HeadersFrame, PingFrame, RstStreamFrame, SettingsFrame
from tests.middleware.service.served import ANSWERS, metric

from tocsin.http2.frames import PREFACE
from tocsin.http2.header_literals import block

# -- TLS


# -- ports


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
