"""Claims about what happens when a model server, a caller or the process itself breaks."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
import yaml
from benchmarks.harness.by_hand import fields, until, upstream
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import (
    INFER,
    SIGNALS,
    STREAM_INFER,
    at_once,
    free_port,
    running,
    settings,
)
from hyperframe.frame import DataFrame, HeadersFrame, RstStreamFrame
from tests.middleware.service.faulty import ANSWER, outcome, served

from tocsin.configuration.config import Config

# -- peers


def opening(stream: int) -> bytes:
    head = fields((":status", "200"), ("content-type", "application/grpc"))
    return bytes(HeadersFrame(stream, data=head, flags=["END_HEADERS"]).serialize())


MESSAGE = b"\0" + struct.pack(">L", len(ANSWER)) + ANSWER


@pytest.mark.parametrize("mode", ["annotate", "enforce"])
def test_a_response_reset_inside_a_message(bundle: Path, mode: str) -> None:
    def behave(peer: socket.socket, stream: int) -> None:
        half = DataFrame(stream, data=MESSAGE[: len(MESSAGE) // 2]).serialize()
        peer.sendall(opening(stream) + half + RstStreamFrame(stream, error_code=8).serialize())

    with upstream(behave) as port, running(settings(port, bundle, mode=mode)) as relay:
        assert outcome(relay) is grpc.StatusCode.CANCELLED
        until(lambda: relay.sidecar.relay.context.memory.remaining == relay.sidecar.config.max_memory)


@pytest.mark.parametrize("mode", ["annotate", "enforce"])
def test_a_slow_upstream_is_waited_for_as_long_as_the_caller_does(bundle: Path, mode: str) -> None:
    def behave(peer: socket.socket, stream: int) -> None:
        peer.sendall(opening(stream))
        time.sleep(0.4)
        for at in range(0, len(MESSAGE), 20):
            peer.sendall(DataFrame(stream, data=MESSAGE[at : at + 20]).serialize())
            time.sleep(0.01)
        end = fields(("grpc-status", "0"))
        peer.sendall(HeadersFrame(stream, data=end, flags=["END_HEADERS", "END_STREAM"]).serialize())

    with upstream(behave) as port, running(settings(port, bundle, mode=mode)) as relay:
        assert outcome(relay) == ANSWER


@pytest.mark.parametrize("mode", ["annotate", "enforce"])
def test_a_half_open_upstream_ends_with_the_callers_deadline_and_tcp_asks_after_it(bundle: Path, mode: str) -> None:
    with upstream(lambda peer, stream: None) as port:
        config = settings(port, bundle, mode=mode, limits={"keepalive": "7s"})
        with running(config) as relay, grpc.insecure_channel(relay.target) as channel:
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(INFER)(b"safe", timeout=0.5)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED  # type: ignore[attr-defined]
            (connection,) = relay.sidecar.relay.context.connections
            for side in (connection.downstream, connection.upstream):  # type: ignore[attr-defined]
                assert side.transport is not None
                peer = side.transport.get_extra_info("socket")
                assert peer.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
                assert peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 7
            until(lambda: not connection.streams)  # type: ignore[attr-defined]


def test_a_caller_that_vanishes_while_its_answer_is_held(bundle: Path) -> None:
    with served(bundle) as relay:
        relay.sidecar.relay.context.guard.models["digits"].readers.every = 0
        relay.sidecar.relay.context.guard.reconfigure(relay.sidecar.config, relay.sidecar.relay.context.guard.models)
        program = f"""
import grpc, os, threading, time
channel = grpc.insecure_channel({relay.target!r})
def requests():
    while True:
        yield b"x" * 50_000
        time.sleep(0.01)
call = channel.stream_stream({STREAM_INFER!r})(requests())
threading.Timer(0.7, lambda: os.kill(os.getpid(), 9)).start()
list(call)
"""
        subprocess.run([sys.executable, "-c", program], check=False)
        until(lambda: not relay.sidecar.relay.context.connections)
        assert relay.sidecar.relay.context.memory.remaining == relay.sidecar.config.max_memory
        assert outcome(relay) == ANSWER


# -- processes


@contextmanager
def command(address: str, bundle: Path, folder: Path) -> Iterator[tuple[str, Callable[[], subprocess.Popen[bytes]]]]:
    target = f"unix:{folder / 'relay.sock'}"
    content = {
        "listen": target, "upstream": address, "mode": "enforce", "metrics": None, "admin": None, "drain": "5s",
        "models": {"digits": {"bundle": str(bundle), "signals": SIGNALS}},
    }  # fmt: skip
    path = folder / "t.yaml"
    path.write_text(yaml.safe_dump(content))
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-m", "tocsin", "serve", "-c", str(path)], env=at_once())
        started.append(process)
        with grpc.insecure_channel(target) as channel:
            grpc.channel_ready_future(channel).result(60)
        return process

    try:
        yield target, start
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_sigterm_lets_held_answers_finish(bundle: Path, tmp_path: Path) -> None:
    with model_server() as (model, address), command(address, bundle, tmp_path) as (target, start):
        model.answers = {b"safe": ANSWER}
        process = start()
        with grpc.insecure_channel(target) as channel:
            call = channel.unary_unary(INFER)
            assert call(b"safe", timeout=60) == ANSWER
            futures = [call.future(b"safe", metadata=(("sleep", "1"),), timeout=60) for _ in range(8)]
            until(lambda: len(model.metadata) == 9)
            process.send_signal(signal.SIGTERM)
            assert [future.result() for future in futures] == [ANSWER] * 8
        assert process.wait(60) == 0


def test_sigkill_is_unavailable_to_callers_and_a_restart_serves_them_again(bundle: Path, tmp_path: Path) -> None:
    with model_server() as (model, address), command(address, bundle, tmp_path) as (target, start):
        model.answers = {b"safe": ANSWER}
        process = start()
        options = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 300)]
        with grpc.insecure_channel(target, options=options) as channel:
            call = channel.unary_unary(INFER)
            waiting = call.future(b"safe", metadata=(("sleep", "1"),), timeout=60)
            until(lambda: model.metadata)
            os.kill(process.pid, signal.SIGKILL)
            assert waiting.exception().code() is grpc.StatusCode.UNAVAILABLE
            process.wait()
            start()
            assert call(b"safe", timeout=60, wait_for_ready=True) == ANSWER


def test_a_port_freed_by_a_killed_process_can_be_had_again(bundle: Path) -> None:
    port = free_port()
    config = Config(**{**settings(1, bundle).model_dump(), "listen": f"127.0.0.1:{port}", "metrics": None})
    for _ in range(2):
        with running(config) as relay:
            assert relay.target == f"127.0.0.1:{port}"
