"""What judging a control step costs, beside what the policy itself takes to answer it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from policy import SAMPLES, Served
from rich.table import Table
from rollouts import read
from tasks import STATE

from benchmarks.report import Check, at_most, console
from tocsin_calibration import calibrate_sessions
from tocsin_calibration.sessions.rule import SessionRule
from tocsin_calibration.sessions.windows import Window
from tocsin_detectors import Observations, compile
from tocsin_detectors.registry import parse

ROUNDS = 300


def cost(folder: Path, task: str) -> tuple[dict[str, Any], list[Check]]:
    """One thread each, turn by turn, medians."""
    rollouts = [rollout for rollout in read(folder / f"{task}.npz") if rollout.kind == "usual" and rollout.success][:60]
    signals = {
        "embedding": np.concatenate([rollout.embeddings for rollout in rollouts]),
        "actions": np.concatenate([rollout.chunks for rollout in rollouts]).astype(np.float32),
    }
    scorer = compile([parse("rnd"), parse("ace")], fit_on=Observations(signals))
    ends = np.cumsum([len(rollout.query_steps) for rollout in rollouts])[:-1]
    promise = calibrate_sessions(
        np.split(scorer(Observations(signals)), ends), {"alarm": 0.05}, session=SessionRule(Window(6))
    )
    policy, state = Served(folder / f"{task}.onnx"), np.zeros(STATE, np.float32)
    assert promise.sessions is not None
    progress = promise.sessions.start()
    query = Observations({name: values[:1] for name, values in signals.items()})

    def monitor() -> None:
        promise.judge(scorer(query), sessions=[progress])

    times: dict[str, list[float]] = {"policy": [], "RND and ACE, and the promise": []}
    for _ in range(ROUNDS):
        for name, work in zip(times, (lambda: policy(state), monitor), strict=True):
            times[name].append(_timed(work))
    medians = {name: float(np.median(seconds)) for name, seconds in times.items()}
    share = medians["RND and ACE, and the promise"] / medians["policy"]
    table = Table("a control step", "median", title=f"{task}, S = {SAMPLES} chunks of 16 actions, one thread each")
    for name, seconds in medians.items():
        table.add_row(name, f"{seconds * 1e3:.2f} ms")
    console.print(table)
    return {"seconds": medians, "share": share}, [
        at_most("judging a control step / the policy's own time", share, 0.05)
    ]


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
