"""Claim: in every position, what a call took is freed when the call ends. Objects that know each other would wait for
the collector instead, which costs CPU, and with them the messages that they hold.

Transports of httpx are not asked: its own responses and their streams know each other.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from benchmarks.harness.chat import CHAT, JSON, SSE, USUAL, completion, config, stream, tokens_bundle
from benchmarks.harness.envoy import attached_envoy
from benchmarks.harness.parts import inline_guard, running
from benchmarks.matrix.answers import Answer
from benchmarks.matrix.positions import asgi
from tests.middleware.http_relay.raw import Caller, calling, chunked, relayed, request, response, upstream
from tests.positions import POSITIONS, positioned

from tocsin.configuration.fields import Address
from tocsin.judgement.guard import Guard

CALLS = 20
EVENTS = b"".join(stream([USUAL] * 6))
OF_SERVERS = ("tocsin.inprocess.server.GuardInterceptor", "tocsin.judgement.batching.Batcher")  # tests end one a call
MODES = ["observe", "annotate", "enforce"]


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Counts the objects of Tocsin's that only the collector finds, by type."""
    garbage: Counter[str] = Counter()
    gc.collect()
    gc.disable()
    try:
        yield garbage
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        kinds = [type(item) for item in gc.garbage]
        names = [f"{kind.__module__}.{kind.__qualname__}" for kind in kinds]
        garbage.update(name for name in names if name.startswith("tocsin"))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def of_calls(garbage: Counter[str]) -> int:
    """How many of the objects belong to calls."""
    return sum(count for kind, count in garbage.items() if kind not in OF_SERVERS)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("position", ["relay", "envoy", *POSITIONS])
def test_calls_of_grpc_leave_nothing_for_the_collector(position: str, mode: str, bundle: Path, tmp_path: Path) -> None:
    with positioned(position, bundle, tmp_path, {"mode": mode}) as (say, _):
        for kind in ("Rank", "Watch"):
            say(kind, ["safe3"])
            with counted() as garbage:
                for _ in range(CALLS):
                    say(kind, ["safe3"])
            assert of_calls(garbage) < CALLS / 2, garbage


@pytest.mark.parametrize("mode", MODES)
def test_the_asgi_middleware_leaves_nothing_for_the_collector(mode: str, tmp_path: Path) -> None:
    guard = inline_guard(config(tokens_bundle(tmp_path / "m.tocsin"), mode))
    for answer in (Answer(200, JSON, completion([USUAL] * 6)), Answer(200, SSE, EVENTS)):
        asgi(guard, CHAT, answer)
        with counted() as garbage:
            for _ in range(CALLS):
                asgi(guard, CHAT, answer)
        assert of_calls(garbage) < CALLS / 2, garbage


@pytest.mark.parametrize("mode", MODES)
def test_http_behind_envoy_leaves_nothing_for_the_collector(mode: str, tmp_path: Path) -> None:
    guard = Guard.open(config(tokens_bundle(tmp_path / "m.tocsin"), mode))
    ports = {
        "ext_proc": Address("127.0.0.1", 0),
        "metrics": None,
        "admin": None,
        "scoring_budget": timedelta(seconds=60),
    }
    for answer in ([response(completion([USUAL] * 6))], chunked(EVENTS)):
        with upstream(lambda _, answer=answer: answer) as model:
            with running(guard.config.model_copy(update=ports), guard) as processor:
                with attached_envoy(tmp_path / "envoy", model.target, processor, codec="HTTP1") as envoy:
                    with httpx.Client(base_url=f"http://{envoy.target}", timeout=60) as client:
                        assert client.post(CHAT, json={"model": "m"}).status_code == 200
                        with counted() as garbage:
                            for _ in range(CALLS):
                                client.post(CHAT, json={"model": "m"})
                        assert of_calls(garbage) < CALLS / 2, garbage


@pytest.mark.parametrize("mode", MODES)
def test_the_relay_of_http_leaves_nothing_for_the_collector(mode: str, tmp_path: Path) -> None:
    for answer in ([response(completion([USUAL] * 6))], chunked(EVENTS)):
        with relayed(tokens_bundle(tmp_path / "m.tocsin"), lambda _, answer=answer: answer, mode=mode) as (relay, _):
            with calling(relay.target) as caller:
                whole_answer = ask(caller)
                with counted() as garbage:
                    for _ in range(CALLS):
                        assert len(ask(caller)) == len(whole_answer)
                assert of_calls(garbage) < CALLS / 2, garbage


def ask(caller: Caller) -> bytes:
    """One response of a relay, with its verdict where it carries one: to its end, which is of either kind."""
    caller.send(request(b'{"model":"m"}', CHAT))
    head = caller.until(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in head.lower():
        return head + caller.until(b"0\r\n\r\n")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return head + caller.count(int(length.partition(b":")[2]))
