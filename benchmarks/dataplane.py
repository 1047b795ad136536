"""The relay beside Envoy, nginx and no hop at all: latency, throughput, and CPU of the hop a request.

One run, interleaved, medians over rounds. The upstream is nghttpd, the load generator h2load; a request is an
image of 28x28 FP32 (3 KB), the response an inference with 10 probabilities, 10 logits and a 64-dimensional
embedding. Scored rows judge every response: four detectors in one graph, joint p-value, metrics.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.peers import Hop, load, missing, start_envoy, start_nginx, start_relay, start_upstream
from benchmarks.report import Check, arguments, at_most, console, finish
from tocsin.judgement.call import Call
from tocsin.judgement.guard import Guard
from tocsin.judgement.model import GuardedModel
from tocsin.judgement.sink import Scored
from tocsin.protocols import oip
from tocsin.protocols.rows import Reading
from tocsin.relay import frames
from tocsin.relay.headers import literal
from tocsin.sinks.prometheus import PrometheusSink
from tocsin.verdict import METADATA_KEY
from tocsin_calibration import Bundle, calibrate
from tocsin_detectors import Energy, Entropy, Mahalanobis, Observations, RandomNetworkDistillation, compile

PATH = "/inference.GRPCInferenceService/ModelInfer"
SHAPES = {"1x1": (1, 1, 2_000), "4x8": (4, 8, 12_000), "16x16": (16, 16, 20_000)}
WIDTHS = {"probs": 10, "logits": 10, "embedding": 64}
CPU_UNSCORED = {"1x1": 0.7, "4x8": 0.5, "16x16": 0.5}
CPU_SCORED = {"1x1": 1.8, "4x8": 1.0, "16x16": 0.6}
LATENCY_1X1 = 0.7


def main() -> None:
    options = arguments(
        __doc__ or "",
        rounds={"type": int, "default": 5, "help": "how often each hop is measured in each shape"},
    )
    if lacking := missing():
        raise SystemExit(f"this benchmark needs programs that are not installed: {lacking}")
    with tempfile.TemporaryDirectory(prefix="tocsin-dataplane-") as folder:
        work = Path(folder)
        observations = traffic(1_000)
        bundle = work / "bench.tocsin"
        make_bundle(observations, bundle)
        request = work / "request.bin"
        image = oip.Request(model_name="bench", raw_input_contents=[bytes(28 * 28 * 4)])
        image.inputs.add(name="image", datatype="FP32").shape.extend([1, 784])
        plain = image.SerializeToString()
        request.write_bytes(b"\0" + len(plain).to_bytes(4, "big") + plain)
        hops = start_hops(work, response(observations, 0), bundle)
        try:
            results = measure(hops, request, options.rounds)
        finally:
            for hop in hops:
                if hop.process is not None:
                    hop.process.terminate()
        spent = breakdown(work / "scored-annotate.yaml", observations)
    print_table(results)
    print_spent(spent)
    finish({"hops": results, "spent_us": spent}, checks(results), options.json)


def traffic(rows: int) -> Observations:
    """Signals of the kind that the demo's model gives."""
    random = np.random.default_rng(0)
    logits = random.normal(scale=3, size=(rows, WIDTHS["logits"]))
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Observations({"probs": probs, "logits": logits, "embedding": random.normal(size=(rows, 64))})


def make_bundle(safe: Observations, path: Path) -> None:
    """Four detectors and a joint promise, as in the demo."""
    detectors = [Entropy(), Energy(), Mahalanobis(), RandomNetworkDistillation(epochs=30)]
    scorer = compile(detectors, fit_on=safe.take(slice(0, 400)))
    promise = calibrate(scorer(safe.take(slice(400, None))), detectors=scorer.detectors)
    Bundle(scorer, promise, "bench").write(path)


def response(observations: Observations, row: int) -> bytes:
    """One inference response."""
    message = oip.Response(model_name="bench", model_version="1", id="6d9b4f2e")
    for name, values in observations.items():
        message.outputs.add(name=name, datatype="FP32").shape.extend([1, values.shape[1]])
        message.raw_output_contents.append(values[row].tobytes())
    return bytes(message.SerializeToString())


def start_hops(work: Path, message: bytes, bundle: Path) -> list[Hop]:
    """Everything that is compared, the upstream first."""
    upstream = start_upstream(work, PATH, message)
    signals = ", ".join(f"{name}: response.outputs.{name}" for name in WIDTHS)
    unscored = f"  bench: {{signals: {{{signals}}}}}\n"
    scored = f"  bench: {{bundle: {bundle}, signals: {{{signals}}}}}\n"
    port = upstream.port
    return [
        Hop("direct", port),
        start_relay("observe", work, port, "observe", unscored),
        start_relay("annotate", work, port, "annotate", unscored),
        start_relay("scored observe", work, port, "observe", scored),
        start_relay("scored annotate", work, port, "annotate", scored),
        start_relay("enforce", work, port, "enforce", unscored),
        start_relay("scored enforce", work, port, "enforce", scored),
        start_nginx(work, port),
        start_envoy(work, port),
        upstream,  # last, and not measured: it is here to be ended with the others
    ]


def measure(hops: list[Hop], request: Path, rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """Medians by hop and shape, every hop measured once a round."""
    measured = [hop for hop in hops if hop.name != "direct" or hop.process is None]
    seen: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for hop in measured:
        for connections, streams, requests in SHAPES.values():
            load(hop, PATH, request, connections, streams, requests // 4)  # warm
    for number in range(rounds):
        for shape, (connections, streams, requests) in SHAPES.items():
            for hop in measured:
                figures = load(hop, PATH, request, connections, streams, requests)
                seen.setdefault((hop.name, shape), []).append(figures)
        console.print(f"round {number + 1} of {rounds}")
    results: dict[str, dict[str, dict[str, float]]] = {}
    for (name, shape), figures in seen.items():
        latency, rate, cpu = (statistics.median(column) for column in zip(*figures, strict=True))
        results.setdefault(name, {})[shape] = {"latency_us": latency, "requests_per_s": rate, "cpu_us": cpu}
    return results


def breakdown(config: Path, observations: Observations) -> dict[str, dict[str, float]]:
    """CPU a response of each step of judging, alone, by batch size (us)."""
    guard = Guard.open(config)
    sink = PrometheusSink(guard.models)
    model = guard.models["bench"]
    messages = [response(observations, row) for row in range(64)]
    spent: dict[str, dict[str, float]] = {}
    for size in (1, 8, 64):
        calls = [Call(model.served[PATH], {}, "", False) for _ in range(size)]
        for call, message in zip(calls, messages, strict=False):
            call.response = message
        read = [_read(model, message) for message in messages[:size]]
        signals = read[0].family.stack([one.raws for one in read])
        scores = model.scorer.run(signals)
        guard.judge(calls)
        batch = Scored("bench", calls, scores, 1e-4)
        verdicts = [call.verdict for call in calls if call.verdict is not None]
        steps: dict[str, Callable[[], Any]] = {
            "parsing": lambda m=messages[:size]: [_read(model, x) for x in m],
            "stacking": lambda r=read: r[0].family.stack([one.raws for one in r]),
            "scoring": lambda s=signals: model.scorer.run(s),
            "judging": lambda s=scores: model.promise.judge(s),
            "metrics": lambda b=batch: sink.scored(b),
            "writing": lambda v=verdicts: [
                frames.header_frames(1, literal(METADATA_KEY, x.to_metadata()), end_stream=True) for x in v
            ],
        }
        spent[f"batch {size}"] = {name: _cpu_us(step) / size for name, step in steps.items()}
    return spent


def _read(model: GuardedModel, message: bytes) -> Reading:
    return model.read(PATH, [model.served[PATH].open(message, None)], None)


def _cpu_us(step: Callable[[], Any], repeats: int = 400) -> float:
    step()
    times = []
    for _ in range(5):
        before = time.process_time_ns()
        for _ in range(repeats):
            step()
        times.append((time.process_time_ns() - before) / repeats / 1e3)
    return statistics.median(times)


def checks(results: dict[str, dict[str, dict[str, float]]]) -> list[Check]:
    """The targets, as ratios to Envoy in the same run."""
    envoy, direct = results["envoy"], results["direct"]
    found = []
    for shape, limit in CPU_UNSCORED.items():
        for name in ("observe", "annotate"):
            ratio = results[name][shape]["cpu_us"] / envoy[shape]["cpu_us"]
            found.append(at_most(f"{name} {shape}: CPU of Envoy's", ratio, limit))
    for name in ("observe", "annotate"):
        added = results[name]["1x1"]["latency_us"] - direct["1x1"]["latency_us"]
        envoys = envoy["1x1"]["latency_us"] - direct["1x1"]["latency_us"]
        found.append(at_most(f"{name} 1x1: added latency of Envoy's", added / envoys, LATENCY_1X1))
    for shape, limit in CPU_SCORED.items():
        ratio = results["scored annotate"][shape]["cpu_us"] / envoy[shape]["cpu_us"]
        found.append(at_most(f"scored annotate {shape}: CPU of Envoy's", ratio, limit))
    return found


def print_table(results: dict[str, dict[str, dict[str, float]]]) -> None:
    table = Table("hop", *SHAPES, title="CPU of the hop a request / mean latency / requests a second")
    for name, shapes in results.items():
        cells = [
            f"{s['cpu_us']:.1f} us / {s['latency_us']:,.0f} us / {s['requests_per_s']:,.0f}" for s in shapes.values()
        ]
        table.add_row(name, *cells)
    console.print(table)


def print_spent(spent: dict[str, dict[str, float]]) -> None:
    steps = list(next(iter(spent.values())))
    table = Table("step", *spent, title="What judging a response is spent on, CPU us a response")
    for step in steps:
        table.add_row(step, *(f"{column[step]:.1f}" for column in spent.values()))
    table.add_row("together", *(f"{sum(column.values()):.1f}" for column in spent.values()))
    console.print(table)
    console.print(
        "Frames are what the unscored rows above cost; the rest of a scored row is Python around these steps."
    )


if __name__ == "__main__":
    main()
