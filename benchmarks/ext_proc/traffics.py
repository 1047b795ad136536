"""What is asked of the model behind Envoy: gRPC, a JSON completion, a stream of events; and who answers it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.dataplane.hops import Hop, start_upstream
from benchmarks.dataplane.load import Load, Shape, load, load_json
from benchmarks.dataplane.messages import PATH, WIDTHS, make_bundle, request, response, traffic
from benchmarks.harness.chat import CHAT, USUAL, each_token_bundle, stream, tokens_bundle
from benchmarks.http_reading import of_four_kilobytes
from benchmarks.http_relay import start_nginx
from tocsin.grpc_wire.deframer import framed

EVENTS = 200
FEW = Shape(1, 1, 2_000)


class Traffic(NamedTuple):
    """Calls of one kind. `start` takes a folder, and starts who answers; `model` is what the processor is told of the
    model, the folder's name in it as {}; `events` are those of a response that are judged one by one. `buffers`: where
    responses are held, Envoy collects them first.
    """

    name: str
    path: str
    start: Callable[[Path], Hop]
    drive: Load
    shapes: dict[str, Shape]
    model: dict[str, Any]
    events: int = 1
    buffers: bool = False


def _grpc(work: Path) -> Hop:
    observations = traffic(1_000)
    make_bundle(observations, work / "bundle.tocsin")
    (work / "request").write_bytes(request())
    return start_upstream(work, {PATH: framed(response(observations, 0))}, window=24)


def _completion(work: Path) -> Hop:
    tokens_bundle(work / "bundle.tocsin")
    _ask(work, stream=False)
    return _answering(work, of_four_kilobytes(True), "application/json")


def _events(work: Path) -> Hop:
    each_token_bundle(work / "bundle.tocsin")
    _ask(work, stream=True)
    return _answering(work, b"".join(stream([USUAL] * EVENTS)), "text/event-stream")


def _answering(work: Path, answer: bytes, content_type: str) -> Hop:
    (work / "answer").write_bytes(answer)
    location = f"root {work}; default_type {content_type}; rewrite ^ /answer break;"
    return start_nginx(work, "upstream", location, http2=True)


def _ask(work: Path, *, stream: bool) -> None:
    question = {"model": "m", "messages": [{"role": "user", "content": "a question"}], "stream": stream}
    (work / "request").write_text(json.dumps(question))


TRAFFICS = (
    Traffic(
        "gRPC",
        PATH,
        _grpc,
        load,
        {"1x1": FEW, "4x8": Shape(4, 8, 6_000), "16x16": Shape(16, 16, 8_000)},
        {"bundle": "{}/bundle.tocsin", "signals": {name: f"response.outputs.{name}" for name in WIDTHS}},
        buffers=True,
    ),
    Traffic(
        "a completion of 4 KB",
        CHAT,
        _completion,
        load_json,
        {"1x1": FEW, "4x8": Shape(4, 8, 6_000), "16x16": Shape(16, 16, 8_000)},
        {"protocol": "openai", "bundle": "{}/bundle.tocsin"},
    ),
    Traffic(
        f"a stream of {EVENTS} events",
        CHAT,
        _events,
        load_json,
        {"1x1": Shape(1, 1, 40), "4x8": Shape(4, 8, 128), "16x16": Shape(16, 16, 256)},
        {"protocol": "openai", "bundle": "{}/bundle.tocsin", "judge": "message", "session": "stream"},
        events=EVENTS,
    ),
)
