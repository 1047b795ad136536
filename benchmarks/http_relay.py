"""The relay judging an HTTP API, beside Envoy and nginx that pass it on, and what reading a request's head costs.

python -m benchmarks.http_relay --json http_relay.json

The response is a chat completion of 4 KB with log-probabilities from nginx, the load generator h2load over HTTP/1.1;
every way in every shape, interleaved, medians over rounds. CPU is that of the hop alone.
"""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table

from benchmarks.compiled import kinds, named
from benchmarks.dataplane.hops import Hop, _program, _start, envoy, free_port, missing, start_relay
from benchmarks.dataplane.load import Figures, Shape, load_http1, medians
from benchmarks.dataplane.load import Table as Measured
from benchmarks.harness.chat import CHAT, tokens_bundle
from benchmarks.harness.envoy import bootstrap
from benchmarks.http_reading import microseconds, of_four_kilobytes
from benchmarks.report import Check, arguments, at_most, console, finish
from tocsin.http_relay.bodies import body_of
from tocsin.http_relay.heads import read_request

SHAPES = {"1x1": Shape(1, 1, 3_000), "4x8": Shape(4, 8, 8_000), "16x16": Shape(16, 16, 12_000)}
MODES = ("observe", "annotate", "enforce")
OF_ENVOY = 0.8  # of Envoy's CPU that judging may take, compiled, at 16x16
OF_H11 = 0.25  # of h11's CPU that a head may take, for a parser of our own to be worth having
HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: vllm:8000\r\nAccept: application/json\r\nAccept-Encoding: gzip\r\n"
    b"Connection: keep-alive\r\nContent-Type: application/json\r\nUser-Agent: OpenAI/Python 2.0\r\n"
    b"Authorization: Bearer none\r\nX-Stainless-Lang: python\r\nX-Stainless-Async: false\r\nContent-Length: 64\r\n\r\n"
)
BODY = b"x" * 64


def main() -> None:
    """Measure, print and check."""
    options = arguments(__doc__ or "", rounds={"type": int, "default": 3, "help": "how often each way is measured"})
    if lacking := missing():
        raise SystemExit(f"this benchmark needs programs that are not installed: {lacking}")
    parsers = {name: microseconds(parse) for name, parse in readers().items()}
    started: list[Hop] = []
    with tempfile.TemporaryDirectory(prefix="tocsin-http-relay-") as folder:
        try:
            table = measure(Path(folder), options.rounds, started)
        finally:
            for hop in started:
                if hop.process is not None:
                    hop.process.terminate()  # nginx ends its workers then
                    hop.process.wait(60)
    show(table, parsers)
    facts = {shape: {name: row._asdict() for name, row in rows.items()} for shape, rows in table.items()}
    finish({**facts, "parsers": parsers}, checks(table, parsers), options.json)


def measure(work: Path, rounds: int, started: list[Hop]) -> Measured:
    """Every way in every shape, interleaved; each figure's median."""
    upstream, request = start_model(work)
    started.append(upstream)
    passing = "proxy_pass http://model; proxy_http_version 1.1; proxy_set_header Connection '';"
    ways = [
        upstream,
        start_nginx(work, "nginx", passing, upstream=upstream.port),
        start_envoy(work, upstream.port),
    ]
    settings = f"  m: {{protocol: openai, bundle: {work}/bench.tocsin}}\n"
    for mode in MODES:
        for compiled in kinds():
            name = named(f"tocsin {mode}", compiled)
            more = "scoring_budget: 1s\n"
            ways.append(start_relay(name, work, upstream.port, mode, settings, more, compiled=compiled))
    started += ways[1:]
    runs: dict[str, dict[str, list[Figures]]] = {shape: {way.name: [] for way in ways} for shape in SHAPES}
    for turn in range(rounds + 1):  # the first warms up
        for shape, load_shape in SHAPES.items():
            for way in ways:
                row = load_http1(way, CHAT, request, load_shape if turn else load_shape._replace(requests=500))
                if turn:
                    runs[shape][way.name].append(row)
    return {shape: {name: medians(rows) for name, rows in of.items()} for shape, of in runs.items()}


def start_model(work: Path) -> tuple[Hop, Path]:
    """nginx that answers as a model server, with a bundle for its answers in `bench.tocsin`; and a request to it."""
    tokens_bundle(work / "bench.tocsin")
    (work / "answer.json").write_bytes(of_four_kilobytes(True))
    request = work / "request.json"
    request.write_text(json.dumps({"model": "m", "messages": [{"role": "user", "content": "a question"}]}))
    answering = f"root {work}; default_type application/json; rewrite ^ /answer.json break;"
    return start_nginx(work, "upstream", answering), request


def start_nginx(work: Path, name: str, location: str, upstream: int = 0, *, http2: bool = False) -> Hop:
    """nginx with one worker, that speaks HTTP/1.1, or HTTP/2 alone."""
    port = free_port()
    behind = f"upstream model {{ server 127.0.0.1:{upstream}; keepalive 64; }}" if upstream else ""
    config = work / f"{name}.conf"
    config.write_text(
        f"""
{"user root root;" if os.geteuid() == 0 else ""}
worker_processes 1; daemon off; pid {config}.pid; error_log {work}/{name}.log error;
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_requests 100000000; client_body_temp_path {work}; proxy_temp_path {work};
  fastcgi_temp_path {work}; uwsgi_temp_path {work}; scgi_temp_path {work};
  {behind}
  server {{
    listen 127.0.0.1:{port} {"http2" if http2 else ""} backlog=1024; error_page 405 =200 $uri;
    location / {{ {location} }}
  }}
}}
"""
    )
    return _start(name, port, [_program("nginx"), "-p", str(work), "-c", str(config)], work)


def start_envoy(work: Path, upstream: int) -> Hop:
    """Envoy with one worker, HTTP/1.1 on both sides, no filter but the router."""
    port = free_port()
    config = work / "envoy.yaml"
    settings = bootstrap(port, free_port(), f"127.0.0.1:{upstream}", [], [], codec="HTTP1")
    config.write_text(yaml.safe_dump(settings))
    command = [str(envoy()), "-c", str(config), "--concurrency", "1", "--disable-hot-restart", "-l", "error"]
    return _start("envoy", port, command, work)


def readers() -> dict[str, Callable[[], Any]]:
    """What reads a head and its body: ours, and the parsers that are installed."""

    def ours() -> None:
        end = HEAD.find(b"\r\n\r\n") + 4
        head = read_request(HEAD[:end])
        body_of(head.length, 1 << 16).feed(BODY)

    parsers: dict[str, Callable[[], Any]] = {"tocsin": ours}
    if importlib.util.find_spec("h11") is not None:
        import h11

        def by_h11() -> None:
            connection = h11.Connection(h11.SERVER)
            connection.receive_data(HEAD + BODY)
            while not isinstance(connection.next_event(), h11.EndOfMessage):
                pass

        parsers["h11"] = by_h11
    if importlib.util.find_spec("httptools") is not None:
        import httptools

        class Collects:
            def __init__(self) -> None:
                self.fields: list[tuple[str, str]] = []

            def on_header(self, name: bytes, value: bytes) -> None:
                self.fields.append((name.decode("latin-1").lower(), value.decode("latin-1")))

            def on_body(self, body: bytes) -> None:
                pass

        def by_httptools() -> None:
            parser = httptools.HttpRequestParser(Collects())
            parser.feed_data(HEAD + BODY)
            parser.get_method()

        parsers["httptools"] = by_httptools
    return parsers


def show(table: Measured, parsers: dict[str, float]) -> None:
    """Print a table for each shape, and one of the parsers."""
    for shape, rows in table.items():
        shown = Table("way", "mean us", "p99 us", "requests/s", "CPU us", title=f"{shape}: a completion of 4 KB")
        for name, row in rows.items():
            shown.add_row(name, *(f"{value:,.0f}" for value in row))
        console.print(shown)
    shown = Table("parser", "us", title="A request's head of 10 fields, and its body")
    for name, time in parsers.items():
        shown.add_row(name, f"{time:.1f}")
    console.print(shown)


def checks(table: Measured, parsers: dict[str, float]) -> list[Check]:
    """Judging against passing on, and our parser against a kept one."""
    results = []
    for name, row in table["16x16"].items():
        if name.startswith("tocsin") and (name.endswith("compiled") or len(kinds()) == 1):
            share = row.cpu_us / table["16x16"]["envoy"].cpu_us
            results.append(at_most(f"16x16: {name}, of Envoy's CPU", share, OF_ENVOY))
    if "h11" in parsers:
        results.append(at_most("a head, of h11's CPU", parsers["tocsin"] / parsers["h11"], OF_H11))
    return results


if __name__ == "__main__":
    main()
