"""Claims about what callers see when something breaks."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from benchmarks.harness.by_hand import fields, until, upstream
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import (
    INFER,
    TRIES_AGAIN_SOON,
    at_once,
    free_port,
    inference,
    running,
    safe_traffic,
    settings,
)
from hyperframe.frame import DataFrame, GoAwayFrame, HeadersFrame, RstStreamFrame, SettingsFrame

import tocsin

ANSWER = inference(safe_traffic(1), slice(0, 1))


def status(target: str, method: str = INFER, request: bytes = b"x", **more: Any) -> tuple[Any, str]:
    with grpc.insecure_channel(target) as channel:
        try:
            channel.unary_unary(method)(request, **{"timeout": 10, **more})
        except grpc.RpcError as error:
            return error.code(), error.details()  # type: ignore[attr-defined]
    return grpc.StatusCode.OK, ""


def test_an_upstream_that_is_down_is_unavailable_with_the_reason(bundle: Path) -> None:
    port = free_port()
    with running(settings(port, bundle)) as relay:
        for method in (INFER, "/any.Other/Method"):
            code, details = status(relay.target, method)
            assert code == grpc.StatusCode.UNAVAILABLE
            assert f"upstream 127.0.0.1:{port} cannot be reached" in details
        assert "tocsin_relay_upstream_failures_total 0.0" not in relay.metrics


def test_a_channel_recovers_when_the_upstream_comes_back(bundle: Path) -> None:
    port = free_port()
    with running(settings(port, bundle)) as relay, grpc.insecure_channel(relay.target) as channel:
        call = channel.unary_unary("/test.Model/Unary")
        with pytest.raises(grpc.RpcError):
            call(b"x", timeout=60)
        with model_server(f"127.0.0.1:{port}"):
            assert call(b"back", timeout=60, wait_for_ready=True) == b"back"


OPENING = fields((":status", "200"), ("content-type", "application/grpc"))
MESSAGE = b"\0" + struct.pack(">L", len(ANSWER)) + ANSWER


def headers(stream: int, block: bytes, *flags: str) -> bytes:
    return bytes(HeadersFrame(stream, data=block, flags=["END_HEADERS", *flags]).serialize())


def test_an_upstream_that_dies_before_answering_gives_unavailable_with_the_reason(bundle: Path) -> None:
    with (
        upstream(lambda peer, stream: peer.shutdown(socket.SHUT_RDWR)) as port,
        running(settings(port, bundle)) as relay,
    ):
        code, details = status(relay.target)
    assert code == grpc.StatusCode.UNAVAILABLE
    assert "closed the connection" in details


def test_an_upstream_that_dies_between_message_and_trailers_gives_unavailable(bundle: Path) -> None:
    def behave(peer: socket.socket, stream: int) -> None:
        peer.sendall(headers(stream, OPENING) + DataFrame(stream, data=MESSAGE).serialize())
        time.sleep(0.1)
        peer.shutdown(socket.SHUT_RDWR)

    with upstream(behave) as port, running(settings(port, bundle)) as relay:
        assert status(relay.target)[0] == grpc.StatusCode.UNAVAILABLE


def test_an_upstream_that_dies_inside_a_message_gives_unavailable(bundle: Path) -> None:
    def behave(peer: socket.socket, stream: int) -> None:
        peer.sendall(headers(stream, OPENING) + DataFrame(stream, data=MESSAGE).serialize()[:60])
        time.sleep(0.1)
        peer.shutdown(socket.SHUT_RDWR)

    with upstream(behave) as port, running(settings(port, bundle)) as relay:
        assert status(relay.target)[0] == grpc.StatusCode.UNAVAILABLE


def test_an_upstream_that_answers_and_closes_at_once_is_still_judged(bundle: Path) -> None:
    def behave(peer: socket.socket, stream: int) -> None:
        trailers = headers(stream, fields(("grpc-status", "0")), "END_STREAM")
        peer.sendall(headers(stream, OPENING) + DataFrame(stream, data=MESSAGE).serialize() + trailers)
        peer.shutdown(socket.SHUT_RDWR)

    with upstream(behave) as port, running(settings(port, bundle)) as relay:
        with grpc.insecure_channel(relay.target) as channel:
            response, call = channel.unary_unary(INFER).with_call(b"x", timeout=60)
            assert response == ANSWER
            assert tocsin.verdict(call).unscored is None


@pytest.mark.parametrize("mode", ["observe", "annotate"])
def test_a_reset_stream_reaches_the_caller_as_its_status(bundle: Path, mode: str) -> None:
    def behave(peer: socket.socket, stream: int) -> None:
        peer.sendall(headers(stream, OPENING) + RstStreamFrame(stream, error_code=0xB).serialize())

    with upstream(behave) as port, running(settings(port, bundle, mode=mode)) as relay:
        direct = status(f"127.0.0.1:{port}")
        assert status(relay.target) == direct
        assert direct[0] == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_goaway_reaches_the_caller_and_calls_in_flight_finish(bundle: Path) -> None:
    def behave(peer: socket.socket, stream: int) -> None:
        peer.sendall(GoAwayFrame(0, last_stream_id=stream).serialize())
        time.sleep(0.2)
        trailers = headers(stream, fields(("grpc-status", "0")), "END_STREAM")
        peer.sendall(headers(stream, OPENING) + DataFrame(stream, data=MESSAGE).serialize() + trailers)

    with upstream(behave) as port, running(settings(port, bundle)) as relay:
        with grpc.insecure_channel(relay.target) as channel:
            call = channel.unary_unary(INFER)
            assert [call(b"x", timeout=60) for _ in range(3)] == [ANSWER] * 3
        assert "tocsin_relay_upstream_goaways_total 3.0" in relay.metrics


@pytest.mark.parametrize(
    "bad",
    [
        b"\0\0\5\x01\x0c\0\0\0\1\xffabcd",
        b"\x7f\xff\xff\x01\x04\0\0\0\1",
        b"\0\0\1\x01\0\0\0\0\1a\0\0\0\x06\0\0\0\0\0",
        b"\0\0\5\x04\0\0\0\0\0abcde",
    ],
    ids=["padding", "length", "no continuation", "settings"],
)
def test_malformed_frames_end_the_connection_with_a_reason(bundle: Path, bad: bytes) -> None:
    with model_server() as (_, address), running(settings(address, bundle)) as relay:
        host, _, port = relay.target.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=60) as peer:
            peer.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SettingsFrame(0).serialize() + bad)
            received = b""
            while chunk := peer.recv(4096):
                received += chunk
        assert b"\x07" in received  # GOAWAY
        assert 'tocsin_relay_not_understood_total{what="malformed"} 1.0' in relay.metrics
        assert status(relay.target, "/test.Model/Unary") == (grpc.StatusCode.OK, "")


def test_a_continuation_flood_ends_the_connection(bundle: Path) -> None:
    with model_server() as (_, address), running(settings(address, bundle)) as relay:
        host, _, port = relay.target.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=60) as peer:
            peer.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SettingsFrame(0).serialize())
            peer.sendall(b"\0\0\0\x01\0\0\0\0\1")
            with contextlib.suppress(OSError):
                for _ in range(10_000):
                    peer.sendall(b"\0\0\0\x09\0\0\0\0\1")
                while peer.recv(4096):
                    pass
        assert 'what="malformed"} 1.0' in relay.metrics


def test_what_is_not_http2_passes_unread(bundle: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            peer, _ = listener.accept()
            with peer:
                request = peer.recv(4096)
                peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok" + request[:3])

        threading.Thread(target=answer, daemon=True).start()
        with running(settings(listener.getsockname()[1], bundle)) as relay:
            host, _, port = relay.target.rpartition(":")
            with socket.create_connection((host, int(port)), timeout=60) as peer:
                peer.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                received = b""
                while chunk := peer.recv(4096):
                    received += chunk
            assert received.endswith(b"\r\n\r\nokGET")
            assert 'what="not_http2"} 1.0' in relay.metrics


def test_a_client_that_vanishes_leaves_nothing_behind(bundle: Path) -> None:
    with model_server() as (_, address), running(settings(address, bundle)) as relay:
        for _ in range(20):
            with grpc.insecure_channel(relay.target) as channel:
                channel.unary_unary("/test.Model/Unary").future(b"x", metadata=(("sleep", "0.2"),))
                time.sleep(0.01)
        for _ in range(100):
            if "tocsin_relay_connections 0.0" in relay.metrics and "tocsin_relay_streams 0.0" in relay.metrics:
                break
            time.sleep(0.05)
        assert "tocsin_relay_connections 0.0" in relay.metrics
        assert not relay.sidecar.relay.context.connections


def test_unix_sockets_on_both_sides(bundle: Path, tmp_path: Path) -> None:
    upstream_path, listen = f"unix:{tmp_path}/model.sock", f"unix:{tmp_path}/tocsin.sock"
    with model_server(upstream_path) as (model, _), running(settings(upstream_path, bundle, listen=listen)):
        model.answers = {b"x": ANSWER}
        with grpc.insecure_channel(listen) as channel:
            response, call = channel.unary_unary(INFER).with_call(b"x", timeout=60)
        assert response == ANSWER and tocsin.verdict(call).unscored is None


def test_draining_finishes_calls_in_flight_and_refuses_new_connections(bundle: Path) -> None:
    with model_server() as (model, address), running(settings(address, bundle)) as relay:
        with grpc.insecure_channel(relay.target) as channel:
            slow = channel.unary_unary("/test.Model/Unary").future(b"slow", metadata=(("sleep", "0.7"),), timeout=60)
            until(lambda: model.metadata)
            relay.call(relay.sidecar.relay.drain())
            assert slow.result() == b"slow"
        assert status(relay.target, wait_for_ready=False)[0] == grpc.StatusCode.UNAVAILABLE


def test_draining_ends_by_its_deadline(bundle: Path) -> None:
    with model_server() as (model, address), running(settings(address, bundle, drain="300ms")) as relay:
        with grpc.insecure_channel(relay.target) as channel:
            stuck = channel.unary_unary("/test.Model/Unary").future(b"x", metadata=(("sleep", "3"),), timeout=60)
            until(lambda: model.metadata)
            relay.call(relay.sidecar.relay.drain())
            with pytest.raises(grpc.RpcError) as caught:
                stuck.result()
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]


def test_sigterm_drains_the_command(bundle: Path, tmp_path: Path) -> None:
    with model_server() as (model, address):
        port = free_port()
        config = tmp_path / "tocsin.yaml"
        config.write_text(
            f"listen: 127.0.0.1:{port}\nupstream: {address}\nmetrics: null\nadmin: null\n"
            f"models: {{digits: {{bundle: {bundle}, signals: {{probs: response.outputs.probs, "
            f"embedding: response.outputs.embedding}}}}}}\n"
        )
        command = [sys.executable, "-m", "tocsin", "serve", "-c", str(config)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=at_once()) as process:
            with grpc.insecure_channel(f"127.0.0.1:{port}", TRIES_AGAIN_SOON) as channel:
                call = channel.unary_unary("/test.Model/Unary")
                assert call(b"up", timeout=60, wait_for_ready=True) == b"up"
                slow = call.future(b"slow", metadata=(("sleep", "0.6"),), timeout=60)
                until(lambda: len(model.metadata) == 2)
                os.kill(process.pid, signal.SIGTERM)
                assert slow.result() == b"slow"
            assert process.wait(60) == 0
            assert process.stderr is not None and "Traceback" not in process.stderr.read()


def test_a_client_that_half_closes_its_socket_still_gets_its_answer(bundle: Path) -> None:
    def behave(peer: socket.socket, stream: int) -> None:
        time.sleep(0.3)
        trailers = headers(stream, fields(("grpc-status", "0")), "END_STREAM")
        peer.sendall(headers(stream, OPENING) + DataFrame(stream, data=MESSAGE).serialize() + trailers)

    asking = fields((":method", "POST"), (":path", INFER), ("content-type", "application/grpc"))
    with upstream(behave) as port, running(settings(port, bundle)) as relay:
        host, _, relay_port = relay.target.rpartition(":")
        with socket.create_connection((host, int(relay_port)), timeout=60) as peer:
            peer.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SettingsFrame(0).serialize())
            peer.sendall(headers(1, asking) + DataFrame(1, data=b"\0\0\0\0\0", flags=["END_STREAM"]).serialize())
            peer.shutdown(socket.SHUT_WR)
            received = b""
            while chunk := peer.recv(4096):
                received += chunk
    assert MESSAGE in received and b"tocsin-verdict" in received


def test_draining_adds_nothing_to_what_is_not_http2(bundle: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(4096)
                peer.sendall(b"HTTP/1.1 200 OK\r\n")
                time.sleep(0.6)
                peer.sendall(b"Content-Length: 0\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        with running(settings(listener.getsockname()[1], bundle)) as relay:
            host, _, port = relay.target.rpartition(":")
            with socket.create_connection((host, int(port)), timeout=60) as peer:
                peer.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                received = peer.recv(4096)
                relay.call(relay.sidecar.relay.drain())
                while chunk := peer.recv(4096):
                    received += chunk
            assert received == b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def test_a_drained_client_is_told_the_last_stream_that_was_served(bundle: Path) -> None:
    with model_server() as (_, address), running(settings(address, bundle)) as relay:
        host, _, port = relay.target.rpartition(":")
        asking = fields((":method", "POST"), (":path", "/test.Model/Unary"), ("content-type", "application/grpc"),
                        (":scheme", "http"), (":authority", "x"), ("te", "trailers"))  # fmt: skip
        with socket.create_connection((host, int(port)), timeout=60) as peer:
            peer.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SettingsFrame(0).serialize())
            peer.sendall(headers(1, asking) + DataFrame(1, data=b"\0\0\0\0\0", flags=["END_STREAM"]).serialize())
            received = b""
            while b"grpc-status" not in received:
                received += peer.recv(4096)
            time.sleep(0.1)
            relay.call(relay.sidecar.relay.drain())
            while chunk := peer.recv(4096):
                received += chunk
    goaway = received.index(b"draining") - 8
    assert received[goaway : goaway + 8] == struct.pack(">LL", 1, 0)
