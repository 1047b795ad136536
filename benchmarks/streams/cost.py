"""What it costs to judge every token: CPU time in the relay, tokens a second through a gateway, and time to tokens."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import yaml
from rich.table import Table

from benchmarks.compiled import GAIN, environment, kinds, named
from benchmarks.dataplane.hops import cpu_ns
from benchmarks.report import Check, console
from benchmarks.streams import replayed
from benchmarks.streams.answers import Answer
from benchmarks.streams.signals import by_token, stacked
from tocsin.grpc_wire.deframer import framed
from tocsin_calibration import Bundle, SessionRule, calibrate_sessions
from tocsin_calibration.sessions.windows import Window
from tocsin_detectors import compile
from tocsin_detectors.registry import parse

ENGINE, RELAY, GATEWAY, METRICS = 19776, 19778, 30351, 19777  # ports
ALTERNATIVES, STREAMS, PACE = 5, 10_000, 0.005
GENERATE = "/vllm.grpc.engine.VllmEngine/Generate"
TARGET = 50_000  # tokens a second
GATEWAY_AND_RELAY = "gateway, relay that asks, observe"


class Load(NamedTuple):
    """Streams a run asks for, the tokens in them, the seconds they took, and CPU seconds of the relay."""

    tokens: int
    seconds: float
    cpu: float

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds


def cost(answers: Sequence[Answer], model: Path, work: Path) -> tuple[dict[str, Any], list[Check]]:
    """Throughput of engine alone, with the relay, with a gateway, with both; then latency, token by token."""
    replayed.write(work / "streams.bin", [_shortened(answer.messages, ALTERNATIVES) for answer in answers])
    replayed.write(work / "plain.bin", [_shortened(answer.messages, None) for answer in answers])
    tokens = [len(answer.ids) for answer in answers]
    _bundle(answers, work / "tokens.tocsin")
    total = sum(tokens[at % len(tokens)] for at in range(STREAMS))
    loads: dict[str, Load] = {}
    with engine(work):
        loads["engine"] = _direct(ENGINE, work, total, None)
        for mode in ("observe", "annotate", "enforce"):
            for compiled in kinds():
                with relay(work, mode, ask=0, compiled=compiled) as process:
                    loads[named(f"relay, {mode}", compiled)] = _direct(RELAY, work, total, process)
        for compiled in kinds() if _gateway_there() else []:
            with (
                relay(work, "observe", ask=ALTERNATIVES, compiled=compiled) as process,
                gateway(model, RELAY, work),
            ):
                loads[named(GATEWAY_AND_RELAY, compiled)] = _through_gateway(work, total, process)
    if _gateway_there():
        with engine(work, file="plain.bin"), gateway(model, ENGINE, work):  # which was not asked for log-probabilities
            loads["gateway"] = _through_gateway(work, total, None)
    table = Table(
        "path",
        "tokens/s",
        "relay, us a token",
        title=f"{STREAMS:,} streams, {total:,} tokens, each scored where there is a relay",
    )
    for path, load in loads.items():
        table.add_row(path, f"{load.rate:,.0f}", f"{1e6 * load.cpu / load.tokens:.1f}" if load.cpu else "-")
    console.print(table)
    checks = []
    for compiled in kinds():
        for name in ("relay, observe", GATEWAY_AND_RELAY):
            path_load = loads.get(named(name, compiled))
            rate = round(path_load.rate) if path_load else 0
            checks.append(Check(f"tokens/s: {named(name, compiled)}", rate, f">= {TARGET}", rate >= TARGET))
    if len(kinds()) > 1:
        plain, quick = (loads[named("relay, observe", compiled)].cpu for compiled in kinds())
        gain = round(plain / quick, 2)
        checks.append(Check("compiled: times less CPU, relay, observe", gain, f">= {GAIN}", gain >= GAIN))
    results = {
        name: {"tokens/s": load.rate, "us a token": 1e6 * load.cpu / load.tokens} for name, load in loads.items()
    }
    return {"throughput": results, "latency": _latency(work)}, checks


def _latency(work: Path) -> dict[str, Any]:
    """Time to the first token and between tokens, an engine that sends one every few milliseconds."""
    table = Table(
        "path", "first token, ms", "between tokens, ms", "99th", title=f"Latency, a token every {1e3 * PACE:g} ms"
    )
    results = {}
    with engine(work, PACE):
        paths: list[tuple[str, str | None, dict[str, Any]]] = [
            ("engine", None, {}), ("relay, observe", "observe", {}), ("relay, annotate", "annotate", {}),
            ("relay, enforce, each token", "enforce", {}), ("relay, enforce, windows of 4", "enforce", {"judge": 4}),
        ]  # fmt: skip
        for name, mode, more in paths:
            with ExitStack() as running:
                if mode is not None:
                    running.enter_context(relay(work, mode, ask=0, **more))
                first, gaps = _timed(ENGINE if mode is None else RELAY)
            results[name] = {
                "first": first,
                "median gap": float(np.median(gaps)),
                "p99 gap": float(np.quantile(gaps, 0.99)),
            }
            row = results[name]
            table.add_row(name, *(f"{1e3 * row[key]:.2f}" for key in ("first", "median gap", "p99 gap")))
    console.print(table)
    return results


def _timed(port: int) -> tuple[float, list[float]]:
    firsts, gaps = [], []
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_stream(GENERATE)
        for _ in range(60):
            began = last = time.perf_counter()
            for number, _message in enumerate(call(b"\n\1r", timeout=30)):
                now = time.perf_counter()
                if number == 0:
                    firsts.append(now - began)
                else:
                    gaps.append(now - last)
                last = now
    return float(np.median(firsts[10:])), gaps


def _shortened(messages: Sequence[bytes], alternatives: int | None) -> list[bytes]:
    """The messages with so many alternatives a token, or without log-probabilities."""
    from smg_grpc_proto.generated import vllm_engine_pb2 as vllm

    shortened = []
    for raw in messages:
        message = vllm.GenerateResponse.FromString(raw)
        for top in message.chunk.output_logprobs.top_logprobs if message.HasField("chunk") else ():
            del top.values[alternatives:], top.token_ids[alternatives:]
        if alternatives is None and message.HasField("chunk"):
            message.chunk.ClearField("output_logprobs")
        shortened.append(message.SerializeToString())
    return shortened


def _bundle(answers: Sequence[Answer], path: Path) -> None:
    """Surprisal and entropy of each token, with a promise for the stream."""
    parts = [by_token(answer, ALTERNATIVES) for answer in answers[:400]]
    observed = stacked(parts)
    scorer = compile([parse("max_surprisal"), parse("token_entropy")], fit_on=observed)
    rule = SessionRule(Window(4))
    promise = calibrate_sessions(
        [scorer(part) for part in parts], {"warning": 0.05, "critical": 0.02}, session=rule, detectors=scorer.detectors
    )
    Bundle(scorer, promise, "smollm2").write(path)


@contextmanager
def engine(work: Path, pace: float = 0.0, file: str = "streams.bin") -> Iterator[None]:
    """The engine that replays."""
    command = ["-m", "benchmarks.streams.replayed", str(ENGINE), str(work / file), str(pace)]
    with _running([sys.executable, *command], work / "engine.log", ENGINE):
        yield


@contextmanager
def relay(work: Path, mode: str, *, ask: int, compiled: bool = False, **more: Any) -> Iterator[subprocess.Popen[bytes]]:
    """The relay, judging every token unless told otherwise."""
    model = {"protocol": "vllm", "bundle": "tokens.tocsin", "judge": "message", "session": "stream", "ask": ask, **more}
    (work / "tocsin.yaml").write_text(yaml.safe_dump({
        "listen": f"127.0.0.1:{RELAY}", "upstream": f"127.0.0.1:{ENGINE}", "mode": mode, "admin": None,
        "metrics": f"127.0.0.1:{METRICS}", "scoring_budget": "1s", "models": {"smollm2": model},
    }))  # fmt: skip
    command = [sys.executable, "-m", "tocsin", "serve", "-c", str(work / "tocsin.yaml")]
    with _running(command, work / "relay.log", RELAY, environment(compiled)) as process:
        yield process


@contextmanager
def gateway(model: Path, worker: int, work: Path) -> Iterator[None]:
    """smg, the gateway, before a worker."""
    command = [
        str(Path(sys.executable).with_name("smg")), "launch", "--host", "127.0.0.1", "--port", str(GATEWAY),
        "--worker-urls", f"grpc://127.0.0.1:{worker}", "--model-path", str(model), "--tokenizer-path",
        str(model / "tokenizer.json"), "--disable-retries", "--disable-circuit-breaker",
    ]  # fmt: skip
    with _running(command, work / "gateway.log", GATEWAY):
        body = json.dumps({
            "model": "smollm2", "messages": [{"role": "user", "content": "hello"}], "stream": True, "max_tokens": 64,
        }).encode()  # fmt: skip
        (work / "chat.json").write_bytes(body)
        ends = time.monotonic() + 90
        while time.monotonic() < ends:
            with suppress(OSError):
                request = urllib.request.Request(_chat(), body, {"Content-Type": "application/json"})
                with urllib.request.urlopen(request, timeout=5) as answer:
                    if b"[DONE]" in answer.read():
                        break
            time.sleep(0.3)
        else:
            raise SystemExit(f"the gateway did not find the engine: see {work / 'gateway.log'}")
        yield


@contextmanager
def _running(
    command: list[str], log: Path, port: int, env: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    import socket

    with log.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=env) as process:
        try:
            ends = time.monotonic() + 60
            while True:
                with suppress(OSError):
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                if process.poll() is not None or time.monotonic() > ends:
                    raise SystemExit(f"{command[:3]} did not start: see {log}")
                time.sleep(0.1)
            yield process
        finally:
            process.terminate()
            process.wait(30)


def _gateway_there() -> bool:
    return Path(sys.executable).with_name("smg").exists()


def _chat() -> str:
    return f"http://127.0.0.1:{GATEWAY}/v1/chat/completions"


def _direct(port: int, work: Path, tokens: int, process: subprocess.Popen[bytes] | None) -> Load:
    from smg_grpc_proto.generated import vllm_engine_pb2 as vllm

    request = vllm.GenerateRequest(
        request_id="r", text="hello", stream=True, sampling_params=vllm.SamplingParams(logprobs=ALTERNATIVES)
    )
    (work / "request.bin").write_bytes(framed(request.SerializeToString()))
    headers = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    return _load(
        ["-c", "8", "-m", "16", "-d", str(work / "request.bin"), *headers, f"http://127.0.0.1:{port}{GENERATE}"],
        tokens,
        process,
    )


def _through_gateway(work: Path, tokens: int, process: subprocess.Popen[bytes] | None) -> Load:
    headers = ["-H", "content-type: application/json"]
    return _load(["--h1", "-c", "64", "-d", str(work / "chat.json"), *headers, _chat()], tokens, process)


def _load(arguments: list[str], tokens: int, process: subprocess.Popen[bytes] | None) -> Load:
    before = cpu_ns(process.pid) if process else 0
    began = time.perf_counter()
    done = subprocess.run(
        ["h2load", "-n", str(STREAMS), "-t", "1", *arguments], capture_output=True, text=True, check=True
    )
    seconds = time.perf_counter() - began
    if f"{STREAMS} succeeded" not in done.stdout:
        raise SystemExit(f"not every stream was answered: {done.stdout[-800:]}")
    return Load(tokens, seconds, (cpu_ns(process.pid) - before) / 1e9 if process else 0.0)
