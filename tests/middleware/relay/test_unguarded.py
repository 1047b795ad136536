"""Claims: methods that no model has are refused where that is configured, and keys follow a reload."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from benchmarks.harness.by_hand import until
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import INFER, SIGNALS, Running, free_port, inference, running, safe_traffic, settings
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc
from tests.raw_client import field, raw_client

from tocsin.configuration.config import Config
from tocsin.grpc_wire.deframer import framed
from tocsin.http2 import frames
from tocsin.http2.frames import DATA, END_HEADERS, END_STREAM, HEADERS
from tocsin.judgement.guard import Guard

ANSWER = inference(safe_traffic(1), slice(0, 1))
OTHER = "/test.Model/Unary"
STATIC_KEYS = {"authorization": 23, "cookie": 32, "from": 37, "user-agent": 58, "via": 60}


@contextmanager
def served(bundle: Path, **more: Any) -> Iterator[Running]:
    with model_server() as (model, address):
        model.answers = {b"safe": ANSWER}
        with running(settings(address, bundle, **more)) as relay:
            yield relay


def code(target: str, method: str, request: bytes = b"safe") -> Any:
    with grpc.insecure_channel(target) as channel:
        try:
            channel.unary_unary(method)(request, timeout=60)
        except grpc.RpcError as error:
            return error.code()  # type: ignore[attr-defined]
    return None


def limited(relay: Running, limit: str) -> float:
    line = f'tocsin_relay_limited_total{{limit="{limit}"}} '
    return next(float(text.rpartition(" ")[2]) for text in relay.metrics.splitlines() if text.startswith(line))


def test_methods_without_a_model_are_refused_and_the_connection_stays(bundle: Path) -> None:
    with served(bundle, mode="enforce", unguarded="refuse") as relay, grpc.insecure_channel(relay.target) as channel:
        for _ in range(2):  # before and after the client has acknowledged the relay's settings
            with pytest.raises(grpc.RpcError) as refused:
                channel.unary_unary(OTHER)(b"x", timeout=60)
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED  # type: ignore[attr-defined]
            assert OTHER in refused.value.details()  # type: ignore[attr-defined]
            assert channel.unary_unary(INFER)(b"safe", timeout=60) == ANSWER
        assert limited(relay, "unguarded") == 2
        assert len(relay.sidecar.relay.context.connections) == 1


def test_a_call_refused_before_the_client_acknowledges_costs_no_other(bundle: Path) -> None:
    """Until then blocks are written anew behind a refused one; from then on each stands alone."""

    def request_frames(stream: int, method: str) -> bytes:
        fields = ((":method", "POST"), (":scheme", "http"), (":path", method), (":authority", "x"), ("te", "trailers"),
                  ("content-type", "application/grpc"))  # fmt: skip
        block = b"".join(field(name, value) for name, value in fields)
        return frames.frame(HEADERS, END_HEADERS, stream, block) + frames.frame(
            DATA, END_STREAM, stream, framed(b"safe")
        )

    with (
        served(bundle, mode="enforce", unguarded="refuse") as relay,
        raw_client(relay.target, acknowledges=False) as client,
    ):
        client.send(request_frames(1, OTHER))
        assert client.answer(1).status == "7"
        client.send(request_frames(3, INFER))
        assert client.answer(3).status == "0"
        client.send(frames.frame(frames.SETTINGS, frames.ACK, 0))
        client.send(request_frames(5, INFER))
        assert client.answer(5).status == "0"
        client.send(request_frames(7, OTHER))
        assert client.answer(7).status == "7"
        client.send(request_frames(9, INFER))
        assert client.answer(9).status == "0"


def test_methods_that_are_allowed_pass(bundle: Path) -> None:
    allow = ["/test.Model/Unary", "/other.Service/*"]
    with served(bundle, mode="enforce", unguarded="refuse", unguarded_allow=allow) as relay:
        assert code(relay.target, "/test.Model/Unary") is None
        assert code(relay.target, "/other.Service/Unary") is None
        for method in ("/test.Model/Down", "/test.Model/Unary/", "/other.Service2/Unary", "/other.Service"):
            assert code(relay.target, method) is grpc.StatusCode.PERMISSION_DENIED, method
    with pytest.raises(ValueError, match="unguarded_allow"):
        settings(1, bundle, unguarded_allow=["test.Model/Unary"])


@pytest.mark.parametrize("more", [{"mode": "enforce"}, {"mode": "annotate", "unguarded": "refuse"}])
def test_they_pass_unless_enforcing_says_otherwise(bundle: Path, more: dict[str, Any]) -> None:
    with served(bundle, **more) as relay:
        assert code(relay.target, OTHER) is None
        assert limited(relay, "unguarded") == 0


def test_health_and_reflection_always_pass(bundle: Path) -> None:
    server = grpc.server(ThreadPoolExecutor(2))
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
    reflection.enable_server_reflection([reflection.SERVICE_NAME], server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with (
            running(settings(port, bundle, mode="enforce", unguarded="refuse")) as relay,
            grpc.insecure_channel(relay.target) as channel,
        ):
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            ask = reflection_pb2.ServerReflectionRequest(list_services="")
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            (listed,) = stub.ServerReflectionInfo(iter([ask]), timeout=60)
            assert [listed_service.name for listed_service in listed.list_services_response.service] == [
                reflection.SERVICE_NAME
            ]
    finally:
        server.stop(0).wait()


class Keys:
    """A sink that records the keys (session, group, ...) of every call."""

    def __init__(self) -> None:
        self.keys: list[dict[str, str]] = []

    def scored(self, batch: Any) -> None:
        self.keys += [dict(call.keys) for call in batch.calls]

    unscored = acted = shadowed = lambda self, *what: None


def test_keys_are_read_however_a_caller_encodes_their_names(bundle: Path) -> None:
    sink = Keys()
    with model_server() as (model, address):
        model.answers = {b"safe": ANSWER}
        models = {
            f"m{number}": {"bundle": bundle, "signals": SIGNALS, "session": f"metadata.{key}"}
            for number, key in enumerate(STATIC_KEYS)
        }
        models["digits"] = {"bundle": bundle, "signals": SIGNALS}
        config = settings(address, bundle, models=models, scoring_budget="20s")
        guard = Guard.open(config, [sink])  # type: ignore[list-item]
        with running(config, guard) as relay, raw_client(relay.target) as client:
            start = field(":method", "POST") + field(":scheme", "http") + field(":path", INFER)
            start += field(":authority", "x") + field("te", "trailers") + field("content-type", "application/grpc")
            ways = [
                lambda name, index: field(name, "me"),
                lambda name, index: field(name, "me", huffman=True),
                lambda name, index: field("", "me", index=index),
                lambda name, index: field("", "me", index=index, kind=0x10, huffman=True),
                lambda name, index: field("", "me", index=index, kind=0x40),
            ]
            for number, way in enumerate(ways):
                stream = 2 * number + 1
                block = start + b"".join(way(name, index) for name, index in STATIC_KEYS.items())
                client.send(frames.frame(HEADERS, END_HEADERS, stream, block))
                client.send(frames.frame(DATA, END_STREAM, stream, framed(b"safe")))
                assert client.answer(stream).status == "0"
            client.send(frames.frame(HEADERS, END_HEADERS, 21, start + bytes(0x80 | at for at in STATIC_KEYS.values())))
            client.send(frames.frame(DATA, END_STREAM, 21, framed(b"safe")))
            assert client.answer(21).status == "0"
        until(lambda: len(sink.keys) == len(ways) + 1)
    assert sink.keys == [dict.fromkeys(STATIC_KEYS, "me")] * len(ways) + [dict.fromkeys(STATIC_KEYS, "")]


def test_a_key_that_a_reload_adds_is_read_on_open_connections(bundle: Path, tmp_path: Path) -> None:
    sink, file = Keys(), tmp_path / "tocsin.yaml"
    with model_server() as (model, address):
        model.answers = {b"safe": ANSWER}
        content: dict[str, Any] = {
            "listen": f"127.0.0.1:{free_port()}",
            "upstream": address,
            "mode": "annotate",
            "metrics": None,
            "scoring_budget": "20s",
            "admin": None,
            "models": {"digits": {"bundle": str(bundle), "signals": SIGNALS}},
        }
        file.write_text(yaml.safe_dump(content))
        config = Config.load(file)
        with (
            running(config, Guard.open(config, [sink]), file) as relay,  # type: ignore[list-item]
            grpc.insecure_channel(relay.target) as channel,
        ):
            ask = channel.unary_unary(INFER)
            for _ in range(2):
                ask(b"safe", timeout=60, metadata=[("x-user", "me")])
            content["models"]["digits"]["session"] = "metadata.x-user"
            file.write_text(yaml.safe_dump(content))
            relay.call(relay.sidecar.reloader.reload())
            ask(b"safe", timeout=60, metadata=[("x-user", "me")])
            assert len(relay.sidecar.relay.context.connections) == 1
            until(lambda: len(sink.keys) == 3)
    assert sink.keys == [{}, {}, {"x-user": "me"}]
