"""What reading HTTP costs: a JSON completion of 4 KB with log-probabilities, and an event of a stream.

python -m benchmarks.http_reading --json http_reading.json

Each figure is the least of several rounds in this process. `document` is reading alone, `read` the same with the
exchange that it belongs to: its route, its call, its framing. Beside Tocsin's reading stands what Python's own parser
takes for the same bytes, and `floor`, msgspec with types written by hand for just the wanted values.
"""

from __future__ import annotations

import json
import tempfile
import time
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from rich.table import Table

from benchmarks.harness.chat import CHAT, JSON, SSE, USUAL, completion, config, each_token_bundle, stream, tokens_bundle
from benchmarks.report import Check, arguments, at_most, console, finish
from tocsin.exchange.exchange import Exchange
from tocsin.exchange.opening import Exchanges
from tocsin.judgement.guard import Guard

ROUNDS, SECONDS = 15, 0.02  # of how long each at least


class _Token(msgspec.Struct):
    logprob: float


class _Logprobs(msgspec.Struct):
    content: list[_Token] | None


class _Choice(msgspec.Struct):
    logprobs: _Logprobs | None


class _Floor(msgspec.Struct):
    choices: list[_Choice]


def microseconds(function: Callable[[], object], times: int = 1) -> float:
    """The least time of a call in microseconds, of which each does something so many `times`."""
    timer = timeit.Timer(function, timer=time.process_time)
    calls = max(1, round(SECONDS / max(timer.timeit(3) / 3, 1e-9)))
    return min(timer.repeat(ROUNDS, calls)) / calls / times * 1e6


def of_four_kilobytes(tops: bool) -> bytes:
    """A completion of about 4 KB, with two alternatives a token, or none."""
    tokens = 1
    while len(body := _completion(tokens + 1, tops)) <= 4_096:
        tokens += 1
    return body if len(body) <= 4_096 else _completion(tokens, tops)


def _completion(tokens: int, tops: bool) -> bytes:
    body = json.loads(completion([USUAL - 0.001 * at for at in range(tokens)]))
    for choice in body["choices"]:
        for token in choice["logprobs"]["content"]:
            token["top_logprobs"] = token["top_logprobs"] if tops else []
    return json.dumps(body, separators=(",", ":")).encode()


def opened(exchanges: Exchanges, headers: dict[str, str]) -> Exchange:
    """An exchange whose response begins."""
    exchange = exchanges.open("POST", CHAT, ())
    assert exchange is not None
    exchange.on_response_headers(200, headers.items())
    return exchange


def read_document(guard: Guard, exchanges: Exchanges, body: bytes) -> Callable[[], object]:
    """Reading one response: bytes to the model's signals, as rows that can be scored."""
    model = guard.models["m"]

    def read() -> object:
        exchange = opened(exchanges, JSON)
        segments = exchange.on_response_chunk(body) + exchange.on_response_end()
        ((content, _),) = [message for segment in segments for message in segment.messages]
        assert content is not None
        reads = exchange.method
        return model.readers.by_method[reads.name].read([reads.open(content, None)], None)

    return read


def read_json(guard: Guard, exchanges: Exchanges, body: bytes) -> Callable[[], object]:
    """The same without the exchange around it: the bytes of a document to rows that can be scored."""
    reads = opened(exchanges, JSON).method
    reader = guard.models["m"].readers.by_method[reads.name]

    def read() -> object:
        (part,) = reads.split(body)
        return reader.read([reads.open(part, None)], None)

    return read


def read_events(guard: Guard, exchanges: Exchanges, events: list[bytes]) -> Callable[[], object]:
    """The same of a stream, each event as it comes."""
    model = guard.models["m"]

    def read() -> object:
        exchange = opened(exchanges, SSE)
        reads = exchange.method
        rows = 0
        for event in events:
            for segment in exchange.on_response_chunk(event):
                for content, _ in segment.messages:
                    assert content is not None
                    rows += model.readers.by_method[reads.name].read([reads.open(content, None)], None)[0]
        return rows

    return read


def score_events(guard: Guard, exchanges: Exchanges, events: list[bytes]) -> Callable[[], object]:
    """Reading, scoring and judging each event by itself."""

    def score() -> object:
        exchange = opened(exchanges, SSE)
        for event in events:
            for segment in exchange.on_response_chunk(event):
                for content, fault in segment.messages:
                    piece = exchange.call.on_response_message(content, fault)
                    assert piece is not None
                    guard.judge([piece])
        guard.on_call_closed(exchange.call)
        assert exchange.call.verdict is not None and exchange.call.verdict.unscored is None
        return exchange

    return score


def score_together(guard: Guard, exchanges: Exchanges, events: list[bytes], streams: int = 16) -> Callable[[], object]:
    """The same of several streams at once, whose events are judged as batches."""

    def score() -> object:
        open_exchanges = [opened(exchanges, SSE) for _ in range(streams)]
        for event in events:
            pieces = []
            for exchange in open_exchanges:
                for segment in exchange.on_response_chunk(event):
                    for content, fault in segment.messages:
                        piece = exchange.call.on_response_message(content, fault)
                        assert piece is not None
                        pieces.append(piece)
            guard.judge(pieces)
        for exchange in open_exchanges:
            guard.on_call_closed(exchange.call)
        return open_exchanges

    return score


def main() -> None:
    """Measure, print, check."""
    options = arguments(__doc__ or "")
    folder = Path(tempfile.mkdtemp())
    by_document, by_event = (
        Guard.open(config(tokens_bundle(folder / "tokens.tocsin"), "observe")),
        Guard.open(config(each_token_bundle(folder / "each.tocsin"), "observe", judge="message", session="stream")),
    )
    floor = msgspec.json.Decoder(_Floor)
    results: dict[str, Any] = {}
    for name, tops in (("completion", False), ("completion with alternatives", True)):
        body = of_four_kilobytes(tops)
        results[name] = {
            "bytes": len(body),
            "document": microseconds(read_json(by_document, Exchanges(by_document), body)),
            "read": microseconds(read_document(by_document, Exchanges(by_document), body)),
            "json": microseconds(lambda body=body: json.loads(body)),  # type: ignore[misc]
            "floor": microseconds(lambda body=body: floor.decode(body)),  # type: ignore[misc]
        }
    events = [event for event in stream([USUAL] * 50) if b'"logprob":' in event]
    data = [event[6:].strip() for event in events]
    results["event"] = {
        "bytes": len(events[0]),
        "read": microseconds(read_events(by_event, Exchanges(by_event), events), len(events)),
        "scored alone": microseconds(score_events(by_event, Exchanges(by_event), events), len(events)),
        "scored, 16 streams": microseconds(score_together(by_event, Exchanges(by_event), events), 16 * len(events)),
        "json": microseconds(lambda: [json.loads(event) for event in data], len(data)),
        "floor": microseconds(lambda: [floor.decode(event) for event in data], len(data)),
    }
    table = Table("us of CPU", *dict.fromkeys(key for row in results.values() for key in row), title="Reading HTTP")
    for name, row in results.items():
        columns = dict.fromkeys(key for row in results.values() for key in row)
        table.add_row(name, *(f"{row[key]:.4g}" if key in row else "" for key in columns))
    console.print(table)
    checks: list[Check] = [
        at_most("the JSON of a completion of 4 KB is read, us", results["completion"]["document"], 8),
        at_most("a completion of 4 KB is read, us", results["completion"]["read"], 8),
        at_most("an event is scored, 16 streams at once, us", results["event"]["scored, 16 streams"], 8),
        at_most(
            "a completion of 4 KB is read, of what json takes",
            results["completion"]["read"] / results["completion"]["json"], 1.0,
        ),
    ]  # fmt: skip
    finish(results, checks, options.json)


if __name__ == "__main__":
    main()
