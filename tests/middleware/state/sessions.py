"""What tests of sessions share: a promise about them, a store, and a batch judged with it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
from benchmarks.harness.parts import (
    SIGNALS,
)

from tocsin.configuration.model import ModelConfig
from tocsin.state.opening import State
from tocsin.state.store import SessionStore
from tocsin_calibration import Promise, SessionRule, Window, calibrate_sessions

PATIENT = timedelta(seconds=20)  # Redis on a busy machine is slow, not away


SEVERITIES = {"warning": 0.2, "critical": 0.05}


def promise_of(**rule: Any) -> Promise:
    scores = np.random.default_rng(3).normal(size=(2_000, 2))
    return calibrate_sessions(np.split(scores, 200), SEVERITIES, session=SessionRule(**rule), rule="all")


def store_of(state: State, promise: Promise, **model: Any) -> SessionStore:
    config = ModelConfig(signals=SIGNALS, **model)  # type: ignore[arg-type]
    store = state.sessions("digits", "sha256:0123456789abcdef", promise, config)
    state.keep([store])
    return store


def judged(
    store: SessionStore, promise: Promise, keys: list[str], scores: Any
) -> tuple[list[Any], list[Any], list[Any]]:
    """P-values and severities of rows, and what has ended."""
    with store.lock:
        progress = store.begin(keys, promise.joint(scores).tolist())
        judgement = promise.judge(scores, sessions=progress)
        return judgement.pvalues, judgement.severities, store.end(keys, progress)


RULES = [{}, {"window": Window(5, "mean")}, {"window": Window(3, "sum")}, {"style": "band"}, {"every": 4}]


def counted(state: State) -> dict[str, float]:
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in state.collect()
        for sample in family.samples
    }
