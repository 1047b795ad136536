"""What a scrape costs: a thousand guarded models, all of them busy or none, as Prometheus asks for it."""

from __future__ import annotations

import gc
import logging
import statistics
import tempfile
import time
import zlib
from pathlib import Path

from prometheus_client import CollectorRegistry
from rich.table import Table

from benchmarks.harness.parts import INFER, SIGNALS, inference, safe_traffic, settings
from benchmarks.report import arguments, at_most, console, finish
from tocsin.judgement.guard import Guard
from tocsin.service import GC_THRESHOLDS
from tocsin.sinks.exposition import Exposition
from tocsin.sinks.prometheus import PrometheusSink
from tocsin_calibration import Bundle, calibrate
from tocsin_detectors import Entropy, Mahalanobis, Margin, MaxSoftmax, Observations, compile

ACCEPT = "application/openmetrics-text;version=1.0.0;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SECONDS, MEGABYTES = 0.1, 5.0


def main() -> None:
    options = arguments(
        __doc__,
        models={"type": int, "default": 1_000, "help": "guarded models"},
        responses={"type": int, "default": 8, "help": "responses of a busy model between two scrapes"},
        rounds={"type": int, "default": 9, "help": "scrapes of each kind"},
    )
    logging.disable(logging.WARNING)  # one bundle for all models is told of each
    guard, sink = guarded(options.models)
    safe = safe_traffic(400)
    exposition = Exposition(sink, CollectorRegistry())
    gc.collect()
    gc.freeze()  # as a sidecar does once it has started
    gc.set_threshold(*GC_THRESHOLDS)
    table = Table("models", "scrape", "longest", "on the wire", "unpacked", "lines", title=f"{options.models:,} models")
    rows = {}
    for _ in range(60):  # so that evidence is weighed in several windows
        traffic(guard, safe, 30)
    for kind, responses in (("all busy", options.responses), ("a tenth busy", options.responses), ("idle", 0)):
        times = []
        for number in range(options.rounds + 1):
            traffic(guard, safe, responses, every=10 if kind == "a tenth busy" else 1, first=number % 10)
            started = time.perf_counter()
            _, packed = exposition.answer(ACCEPT, "gzip")
            times.append(time.perf_counter() - started)
        text = zlib.decompress(packed, 31)
        seconds = statistics.median(times[1:])
        rows[kind] = {
            "seconds": seconds, "longest": max(times[1:]), "bytes": len(packed), "unpacked": len(text),
            "lines": text.count(b"\n"),
        }  # fmt: skip
        table.add_row(
            kind, f"{1e3 * seconds:.0f} ms", f"{1e3 * max(times[1:]):.0f} ms", f"{len(packed) / 1e6:.2f} MB",
            f"{len(text) / 1e6:.2f} MB", f"{text.count(10):,}",
        )  # fmt: skip
    console.print(table)
    checks = []
    for kind, row in rows.items():
        checks.append(at_most(f"{kind}: seconds a scrape, median", row["seconds"], SECONDS))
        checks.append(at_most(f"{kind}: MB a scrape, packed as Prometheus asks", row["bytes"] / 1e6, MEGABYTES))
        checks.append(at_most(f"{kind}: MB a scrape, unpacked", row["unpacked"] / 1e6, MEGABYTES))
    finish(rows, checks, options.json)


def guarded(models: int) -> tuple[Guard, PrometheusSink]:
    """A guard of so many models with four detectors each, and what counts its verdicts."""
    safe = safe_traffic(900)
    scorer = compile([Entropy(), MaxSoftmax(), Margin(), Mahalanobis()], fit_on=safe.take(slice(0, 300)))
    scores = scorer(safe.take(slice(300, None)))
    promise = calibrate(scores, {"warning": 0.05, "critical": 0.01}, detectors=scorer.detectors)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "digits.tocsin"
        Bundle(scorer, promise, "digits").write(path)
        configured = {f"model-{number}": {"bundle": path, "signals": SIGNALS} for number in range(models)}
        guard = Guard.open(settings(1, None, models=configured))
    sink = PrometheusSink(guard.models)
    guard.sinks.append(sink)
    return guard, sink


def traffic(guard: Guard, safe: Observations, responses: int, *, every: int = 1, first: int = 0) -> None:
    """So many responses of every model, or of every so-many-th."""
    for number, name in enumerate(guard.models):
        if responses and number % every == first % every:
            call = guard.call(INFER, {"traceparent": TRACE})
            assert call is not None
            rows = slice(number % 300, number % 300 + responses)
            judged = call.on_response_message(inference(safe, rows, model=name))
            assert judged is not None
            guard.judge([judged])


if __name__ == "__main__":
    main()
