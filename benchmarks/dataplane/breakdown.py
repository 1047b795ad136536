"""CPU of each step of judging, alone."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.dataplane.messages import PATH, response
from tocsin.http2 import frames
from tocsin.http2.header_literals import literal
from tocsin.judgement.batch_verdicts import finite_scores
from tocsin.judgement.call import Call
from tocsin.judgement.guard import Guard
from tocsin.judgement.model import GuardedModel
from tocsin.judgement.scoring import Scoring
from tocsin.judgement.sink import Scored
from tocsin.protocols.rows import Family, Reading, Stacking
from tocsin.sinks.prometheus import PrometheusSink
from tocsin.verdict import METADATA_KEY, Verdict
from tocsin_detectors import Observations


def breakdown(config: Path, observations: Observations) -> dict[str, dict[str, float]]:
    """CPU a response of each step of judging, alone, by batch size (us)."""
    guard = Guard.open(config)
    sink = PrometheusSink(guard.models)
    model = guard.models["bench"]
    scoring = model.scoring
    assert scoring is not None
    messages = [response(observations, row) for row in range(64)]
    spent: dict[str, dict[str, float]] = {}
    for size in (1, 8, 64):
        calls = [Call(model.served[PATH], {}, "", False) for _ in range(size)]
        for call, message in zip(calls, messages, strict=False):
            call.response = message
        read = [_read(model, message) for message in messages[:size]]
        contents = [raws for _, _, raws in read]
        scores = finite_scores(scoring, Stacking(read[0][1], contents, size))
        guard.judge(calls)
        batch = Scored("bench", calls, scores, 1e-4)
        verdicts = [call.verdict for call in calls if call.verdict is not None]
        steps: dict[str, Callable[[], Any]] = {
            "parsing": partial(_all_read, model, messages[:size]),
            "scoring": partial(_scored, scoring, read[0][1], contents),
            "judging": partial(scoring.promise.judge, scores),
            "metrics": partial(sink.scored, batch),
            "writing": partial(_written, verdicts),
        }
        spent[f"batch {size}"] = {name: _cpu_us(step) / size for name, step in steps.items()}
    return spent


def _all_read(model: GuardedModel, messages: list[bytes]) -> list[Any]:
    return [_read(model, message) for message in messages]


def _scored(scoring: Scoring, family: Family, contents: list[list[bytes]]) -> Any:
    return finite_scores(scoring, Stacking(family, contents, len(contents)))


def _written(verdicts: list[Verdict]) -> list[bytes]:
    return [
        frames.header_frames(1, literal(METADATA_KEY, verdict.to_metadata()), end_stream=True) for verdict in verdicts
    ]


def _read(model: GuardedModel, message: bytes) -> Reading:
    return model.readers.by_method[PATH].read([model.served[PATH].open(message, None)], None)


def _cpu_us(step: Callable[[], Any], repeats: int = 400) -> float:
    step()
    times = []
    for _ in range(5):
        before = time.process_time_ns()
        for _ in range(repeats):
            step()
        times.append((time.process_time_ns() - before) / repeats / 1e3)
    return statistics.median(times)
