"""What evidence on cause, inputs and classes costs beside the joint evidence alone: CPU a response, and a scrape."""

from __future__ import annotations

import gc
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from prometheus_client import CollectorRegistry
from rich.table import Table
from scipy.stats import binom

from benchmarks.harness.parts import INFER, SIGNALS, inference, safe_traffic, settings
from benchmarks.report import Check, at_most, console
from tocsin.cli.edition import is_compiled
from tocsin.judgement.guard import Guard
from tocsin.sinks.evidence import FOLD_ROWS, MOST_FOLDED
from tocsin.sinks.exposition import Exposition
from tocsin.sinks.prometheus import PrometheusSink
from tocsin_calibration import Bundle, Promise, calibrate
from tocsin_calibration.online.inputs import InputsReference
from tocsin_calibration.thresholds.classes import Classes
from tocsin_detectors import Entropy, Mahalanobis, MaxSoftmax, compile

# Responses a batch, and batches a round: whole blocks of all that is counted together, by class as well. What another
# program takes of a round varies by more than what is sought, so that there are many.
BATCH, ROUNDS = 8, 120
BATCHES = FOLD_ROWS * MOST_FOLDED // BATCH
SCRAPED = 4  # every so-many-th round
MODELS = 100
MORE_CPU, SLOWER = 2.0, 1.1  # microseconds a response, and times as long a scrape, at most
ACCEPT = "text/plain;version=0.0.4"
JOINT, CAUSES, INPUTS, CLASSES = "joint evidence", "with causes", "with causes and inputs", "all, and by class"


class Served(NamedTuple):
    """One way of watching: a guard of some models, and what counts its verdicts."""

    guard: Guard
    sink: PrometheusSink
    exposition: Exposition


def everything(rounds: int = ROUNDS) -> tuple[dict[str, Any], list[Check]]:
    """Each way on the same responses, one after the other in every round, beginning with another one each time.

    What a way costs more is the median of its differences from the joint evidence of the same round.
    """
    with tempfile.TemporaryDirectory() as folder:
        single, many = (_ways(Path(folder), models) for models in (1, MODELS))
    safe = safe_traffic(BATCH * 40, seed=2)
    parts = [slice(at, at + BATCH) for at in range(0, safe.rows, BATCH)]
    messages = [inference(safe, part, model="model-0") for part in parts]
    of_models = [inference(safe, parts[at % len(parts)], model=f"model-{at}") for at in range(MODELS)]
    response: dict[str, list[float]] = {way: [] for way in single}
    scrape: dict[str, list[float]] = {way: [] for way in many}
    gc.collect()
    gc.disable()
    for number_of_round in range(rounds):
        for way, served in _rotated(single, number_of_round):
            began = time.process_time()
            for number in range(BATCHES):
                _judge(served.guard, messages[number % len(messages)])
            response[way].append((time.process_time() - began) / (BATCH * BATCHES) * 1e6)
        for way, served in _rotated(many, number_of_round) if number_of_round % SCRAPED == 0 else ():
            for message in of_models:
                _judge(served.guard, message)
            began = time.process_time()
            served.exposition.answer(ACCEPT, "")
            scrape[way].append((time.process_time() - began) * 1e3)
    gc.enable()
    table = Table(
        "evidence",
        "CPU a response",
        "more than joint evidence",
        f"a scrape of {MODELS} models",
        "times joint evidence's",
        title=f"What evidence costs ({'compiled' if is_compiled() else 'interpreted'}; medians of {rounds} rounds)",
    )
    results: dict[str, Any] = {}
    checks: list[Check] = []
    for way in single:
        more = [of_way - joint for of_way, joint in zip(response[way], response[JOINT], strict=True)]
        slower = [of_way / joint for of_way, joint in zip(scrape[way], scrape[JOINT], strict=True)]
        low, high = _interval(more)
        results[way] = {
            "microseconds a response": median(response[way]),
            "more microseconds": median(more),
            "their interval": [low, high],
            "milliseconds a scrape": median(scrape[way]),
            "times as long a scrape": median(slower),
        }
        differences = (
            (f"{median(more):.2f} us ({low:.2f} to {high:.2f})", f"{median(slower):.3f}") if way != JOINT else ("", "")
        )
        table.add_row(
            way, f"{median(response[way]):.1f} us", differences[0], f"{median(scrape[way]):.1f} ms", differences[1]
        )
        if way != JOINT:
            checks += [
                at_most(f"{way}: more microseconds of CPU a response", median(more), MORE_CPU),
                at_most(f"{way}: a scrape, times as long", median(slower), SLOWER),
            ]
    console.print(table)
    return {"cost": results}, checks


def _rotated(ways: dict[str, Served], by: int) -> list[tuple[str, Served]]:
    """The ways, the one at the place `by` first: what comes first in a round finds other caches."""
    items = list(ways.items())
    by %= len(items)
    return items[by:] + items[:by]


def _interval(values: list[float]) -> tuple[float, float]:
    """Where the median lies with 95%, by the ranks of a binomial law."""
    ordered = sorted(values)
    rank = max(1, int(binom.ppf(0.025, len(values), 0.5)))
    return ordered[rank - 1], ordered[-rank]


def _judge(guard: Guard, message: bytes) -> None:
    call = guard.call(INFER, {})
    assert call is not None
    judged = call.on_response_message(message)
    assert judged is not None
    guard.judge([judged])


def _ways(folder: Path, models: int) -> dict[str, Served]:
    safe = safe_traffic(3_000)
    scorer = compile([Entropy(), MaxSoftmax(), Mahalanobis()], fit_on=safe.take(slice(0, 300)))
    rest = safe.take(slice(300, None))
    classes = Classes("probs", 10)
    result: dict[str, Served] = {}
    for way in (JOINT, CAUSES, INPUTS, CLASSES):
        groups = classes.of(rest["probs"]) if way == CLASSES else None
        terms: dict[str, Any] = {"detectors": scorer.detectors, "on_average": True}
        promise: Promise = calibrate(scorer(rest), {"warning": 0.05, "critical": 0.01}, groups=groups, **terms)
        promise.classes = classes if way == CLASSES else None
        if way in (INPUTS, CLASSES):
            embedding = rest["embedding"].astype(np.float32)
            promise.inputs = InputsReference.of(("embedding",), embedding[:900], embedding[900:])
        path = folder / f"{models}-{len(result)}.tocsin"
        Bundle(scorer, promise, "").write(path)
        configured = {f"model-{number}": {"bundle": path, "signals": SIGNALS} for number in range(models)}
        guard = Guard.open(settings(1, None, models=configured))
        sink = PrometheusSink(guard.models)
        if way == JOINT:
            for series in sink._series.values():
                if series.judged is not None:
                    series.judged.evidence._causes = None
        guard.sinks.append(sink)
        result[way] = Served(guard, sink, Exposition(sink, CollectorRegistry()))
    return result
