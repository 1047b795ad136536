"""Claims: whoever goes, stalls or dawdles harms nobody else, and half a response is never bound for a complete one."""

from __future__ import annotations

import json
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from benchmarks.harness.chat import CHAT, stream
from benchmarks.harness.parts import Running, running
from tests.middleware.http_relay.raw import (
    FAR,
    PATIENCE,
    RESET,
    SAFE,
    calling,
    chunked,
    relayed,
    request,
    response,
    settings,
    upstream,
)

from tocsin.configuration.config import Config

MODES = ["observe", "annotate", "enforce"]
EVENTS = stream([-0.3] * 6)


def until(holds: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def connections(relay: Running) -> int:
    return len(relay.sidecar.relay.context.connections)


def nothing_is_kept(relay: Running) -> bool:
    context = relay.sidecar.relay.context
    return not context.connections and context.memory.remaining == context.memory.limit


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", [CHAT, "/v1/models"])
@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_an_upstream_that_dies_before_it_answers(mode: str, path: str, sent: bytes, tokens: Path) -> None:
    with relayed(tokens, lambda _: [sent, RESET], mode=mode) as (relay, behind):
        with calling(relay.target) as caller:
            for _ in range(2):  # the next request finds another connection
                caller.send(request(b"{}", path))
                head, body = caller.answer()
                if head.startswith(b"HTTP/1.1 100"):
                    head, body = caller.answer()
                assert head.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
                assert json.loads(body)["error"]["code"] == "UPSTREAM"
        assert behind.connections == 2
        until(lambda: nothing_is_kept(relay))


@pytest.mark.parametrize("mode", MODES)
def test_an_upstream_that_is_not_there(mode: str, tokens: Path) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with running(settings(tokens, f"127.0.0.1:{bound.getsockname()[1]}", mode=mode)) as relay:
            with calling(relay.target) as caller:
                for _ in range(2):
                    caller.send(request())
                    assert caller.answer()[0].startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
            assert relay.metric("tocsin_relay_upstream_failures_total") == 2


@pytest.mark.parametrize("mode", MODES)
def test_an_idle_upstream_that_goes_takes_the_connection_along(mode: str, tokens: Path) -> None:
    answers = [[response(SAFE)], [RESET]]
    with relayed(tokens, lambda _: answers.pop(0), mode=mode) as (relay, _):
        with calling(relay.target) as caller:
            caller.send(request())
            assert caller.answer()[1] == SAFE
            caller.send(request())  # as if it had crossed the end of the connection: nobody knows whether it was served
            assert caller.rest() == b""


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", ["length", "chunks"])
@pytest.mark.parametrize("path", [CHAT, "/v1/models"])
def test_half_a_document_is_never_taken_for_a_whole_one(mode: str, form: str, path: str, tokens: Path) -> None:
    complete = [response(SAFE)] if form == "length" else chunked(SAFE, content_type=b"application/json")
    half = b"".join(complete)[:-200]
    with relayed(tokens, lambda _: [half, RESET], mode=mode) as (relay, _):
        with calling(relay.target) as caller:
            caller.send(request(b"{}", path))
            got = caller.until(b'"UPSTREAM"}}' if mode != "observe" and path == CHAT else b"\x00")
        if path == CHAT and mode != "observe":
            assert got.startswith(b"HTTP/1.1 502 ")
        else:
            assert got == half
        until(lambda: nothing_is_kept(relay))


@pytest.mark.parametrize("mode", MODES)
def test_a_stream_that_dies_between_events_has_no_end(mode: str, tokens: Path, each: Path) -> None:
    pieces = chunked(*EVENTS)[:5]
    more = {"judge": "message", "session": "stream"} if mode == "enforce" else {}
    with relayed(each if more else tokens, lambda _: [*pieces, RESET], mode=mode, **more) as (relay, _):
        with calling(relay.target) as caller:
            caller.send(request())
            got = caller.rest()
            assert all(event in got for event in EVENTS[:4])
            assert got.startswith(b"HTTP/1.1 200 ") and not got.endswith(b"0\r\n\r\n") and b"[DONE]" not in got
        until(lambda: nothing_is_kept(relay))


def test_a_stream_is_stopped_and_its_connection_serves_on(each: Path) -> None:
    strange = stream([-0.3] * 3 + [-6.0] * 3)
    more = {"judge": "message", "session": "stream", "on_alarm": {"warning": "block"}}
    table = {b"{}": chunked(*strange)[:-1], b"{1}": chunked(*EVENTS)}  # the first never ends by itself
    with relayed(each, lambda sent_request: table[sent_request.rpartition(b"\r\n\r\n")[2]], mode="enforce", **more) as (
        relay,
        behind,
    ):
        with calling(relay.target) as caller:
            caller.send(request(b"{}"))
            caller.until(b"\r\n\r\n")
            got = caller.until(b"\r\n0\r\n\r\n")
            assert b'"code":"BLOCKED"' in got and b"data: [DONE]" in got
            assert b" w2" not in got or got.index(b" w2") < got.index(b"BLOCKED")
            assert behind.gone.wait(PATIENCE)  # the model need not go on
            caller.send(request(b"{1}"))
            caller.until(b"\r\n\r\n")
            assert b"[DONE]" in caller.until(b"\r\n0\r\n\r\n")
        assert behind.connections == 2


@pytest.mark.parametrize("mode", MODES)
def test_events_go_on_while_the_stream_does(mode: str, each: Path) -> None:
    """An event that is judged is there before the next one is made."""
    tickets: queue.SimpleQueue[None] = queue.SimpleQueue()

    def respond(_: bytes) -> Iterator[bytes]:
        for piece in chunked(*EVENTS):
            tickets.get(timeout=PATIENCE)
            yield piece

    with relayed(each, respond, mode=mode, judge="message", session="stream") as (relay, _):
        with calling(relay.target) as caller:
            caller.send(request())
            tickets.put(None)
            for event in EVENTS[:-1]:  # the last waits for the verdict
                tickets.put(None)
                assert caller.until(event).endswith(event)
            tickets.put(None)
            tickets.put(None)
            assert caller.until(b"0\r\n\r\n").endswith(b"[DONE]\n\n\r\n0\r\n\r\n")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", [CHAT, "/v1/models"])
def test_a_caller_that_has_said_everything_still_gets_its_answer(mode: str, path: str, tokens: Path) -> None:
    with relayed(tokens, lambda _: [response(SAFE)], mode=mode) as (relay, behind):
        behind.go_on.clear()
        with calling(relay.target) as caller:
            caller.send(request(b"{}", path))
            caller.socket.shutdown(socket.SHUT_WR)
            until(lambda: behind.requests)
            behind.go_on.set()
            assert caller.answer()[1] == SAFE
            assert caller.rest() == b""
        until(lambda: nothing_is_kept(relay))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sent", [b"POST /v1/ch", request(b"x" * 100)[:-50], request()])
def test_a_caller_that_goes_leaves_nothing_behind(mode: str, sent: bytes, tokens: Path) -> None:
    with relayed(tokens, lambda _: [response(SAFE)], mode=mode, ask=2) as (relay, behind):
        behind.go_on.clear()
        with calling(relay.target) as caller:
            caller.send(sent)
            until(lambda: connections(relay) == 1)
        behind.go_on.set()
        assert not behind.connections or behind.gone.wait(PATIENCE)  # the upstream learns of it
        until(lambda: nothing_is_kept(relay))


@pytest.mark.parametrize("sent", [b"", b"P", b"PRI * HT", b"POST /v1/ch"])
def test_whoever_dawdles_over_a_head_is_sent_away(sent: bytes, tokens: Path) -> None:
    with relayed(tokens, lambda _: [response(SAFE)], limits={"handshake": "100ms"}) as (relay, _):
        with calling(relay.target) as caller:
            caller.send(sent)
            assert caller.rest() == b""
        assert relay.metric("tocsin_relay_limited_total", limit="handshake") == 1
        with calling(relay.target) as caller:  # and so is who dawdles over the second; who is idle may stay
            caller.send(request())
            assert caller.answer()[1] == SAFE
            caller.send(b"POST /")
            assert caller.rest() == b""


def test_a_head_that_is_too_long_is_refused(tokens: Path) -> None:
    with relayed(tokens, lambda _: [response(SAFE)], limits={"headers": 2_000}) as (relay, behind):
        for more in ("A: " + "b" * 3_000 + "\r\n\r\n", "A: " + "b" * 3_000):
            with calling(relay.target) as caller:
                caller.send(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\n{more}".encode())
                assert caller.rest().startswith(b"HTTP/1.1 431 ")
        assert relay.metric("tocsin_relay_limited_total", limit="headers") == 2
        assert not behind.requests


@pytest.mark.parametrize("mode", MODES)
def test_an_answer_that_is_not_read_holds_up_the_upstream_alone(mode: str, tokens: Path) -> None:
    large = response(b"x" * (32 << 20), more=b"content-type: text/plain\r\n")
    with relayed(
        tokens, lambda sent_request: [large] if b"/large" in sent_request else [response(SAFE)], mode=mode
    ) as (relay, _):
        with calling(relay.target) as slow:
            slow.send(request(b"", "/large", verb="GET"))
            slow.count(1_000)
            for _ in range(3):
                with calling(relay.target) as caller:
                    caller.send(request())
                    assert caller.answer()[1] == SAFE
            context = relay.sidecar.relay.context
            assert context.memory.limit - context.memory.remaining < 4 << 20
            assert len(slow.count(len(large) - 1_000)) == len(large) - 1_000  # nothing is lost
        until(lambda: nothing_is_kept(relay))


def test_whoever_keeps_most_gives_way(tokens: Path) -> None:
    """Documents that are held are charged to their connection."""
    pieces = [
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 900000000\r\n\r\n",
        b"x" * (40 << 20),
    ]
    more = {"max_memory": 16 << 20, "max_message": 1 << 30, "mode": "enforce"}
    with relayed(tokens, lambda sent_request: pieces if b"{1}" in sent_request else [response(SAFE)], **more) as (
        relay,
        _,
    ):
        with calling(relay.target) as greedy:
            greedy.send(request(b"{1}"))
            assert greedy.rest() == b""
        assert relay.metric("tocsin_relay_limited_total", limit="memory") == 1
        with calling(relay.target) as caller:
            caller.send(request())
            assert caller.answer()[1] == SAFE
        until(lambda: nothing_is_kept(relay))


@pytest.mark.parametrize("mode", MODES)
def test_draining_loses_no_part_of_a_response(mode: str, tokens: Path) -> None:
    pieces = chunked(*EVENTS)
    with relayed(tokens, lambda _: pieces, mode=mode, drain="60s") as (relay, behind):
        behind.go_on.clear()
        with calling(relay.target) as idle, calling(relay.target) as caller:
            caller.send(request())
            until(lambda: behind.requests)
            until(lambda: connections(relay) == 2)
            draining = threading.Thread(target=lambda: relay.call(relay.sidecar.relay.drain()))
            draining.start()
            assert idle.rest() == b""
            behind.go_on.set()
            got = caller.rest()
            assert got.endswith(b"0\r\n\r\n") and b"[DONE]" in got
            assert b"connection: close\r\n" in got.partition(b"\r\n\r\n")[0] + b"\r\n"
            draining.join(PATIENCE)
        assert nothing_is_kept(relay)


def test_bytes_that_answer_nothing_are_no_answer_to_the_next(tokens: Path) -> None:
    """Whatever an upstream sends beyond its response is nobody's: the next request is not answered by it."""
    doubled = response(SAFE) + response(FAR)
    with relayed(tokens, lambda _: [doubled], mode="annotate") as (relay, _):
        with calling(relay.target) as caller:
            caller.send(request() + request())
            assert caller.answer()[1] == SAFE
            assert FAR not in caller.rest()


@pytest.mark.parametrize("mode", MODES)
def test_a_response_may_come_before_its_request_is_complete(mode: str, tokens: Path) -> None:
    early = response(b'{"error": "too large"}', status="413 Content Too Large")
    with relayed(tokens, lambda _: [], mode=mode) as (relay, behind):

        class Hasty:
            def serve(self) -> None:
                peer, _ = self.listening.accept()
                peer.recv(100)
                peer.sendall(early)
                while peer.recv(65_536):
                    pass

            def __init__(self) -> None:
                self.listening = socket.create_server(("127.0.0.1", 0))

        hasty = Hasty()
        threading.Thread(target=hasty.serve, daemon=True).start()
        target = f"127.0.0.1:{hasty.listening.getsockname()[1]}"
        with running(settings(tokens, target, mode=mode)) as before:
            with calling(before.target) as caller:
                caller.send(request(b"x" * 1_000_000)[:-500_000])
                assert caller.answer() == (early.partition(b"\r\n\r\n")[0] + b"\r\n\r\n", b'{"error": "too large"}')
        hasty.listening.close()
        assert behind.connections == 0 and relay is not before


def test_the_mode_may_change_while_connections_stay(tokens: Path, tmp_path: Path) -> None:

    file = tmp_path / "tocsin.yaml"

    def write(target: str, mode: str) -> None:
        models = {"m": {"protocol": "openai", "bundle": str(tokens), "on_alarm": {"warning": "block"}}}
        content = {"listen": "127.0.0.1:0", "upstream": target, "metrics": None, "admin": None, "mode": mode}
        file.write_text(yaml.safe_dump({**content, "scoring_budget": "60s", "models": models}))

    with upstream(lambda _: [response(FAR)]) as behind:
        write(behind.target, "annotate")
        with running(Config.load(file), path=file) as relay:
            with calling(relay.target) as caller:
                caller.send(request())
                assert caller.answer()[0].startswith(b"HTTP/1.1 200 ")
                write(behind.target, "enforce")
                relay.call(relay.sidecar.reloader.reload())
                caller.send(request())
                assert caller.answer()[0].startswith(b"HTTP/1.1 403 ")
        assert behind.connections == 1
