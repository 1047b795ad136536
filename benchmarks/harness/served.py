"""Bundles with promises of every kind, and a relay that serves them before a real gRPC server."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np

import tocsin
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import INFER, Running, far_away, inference, quick_bundle, running, safe_traffic, settings
from tocsin.verdict import Verdict
from tocsin_calibration import (
    SessionRule,
    calibrate,
    calibrate_sessions,
    fit_risk_policy,
)
from tocsin_calibration.thresholds.classes import Classes
from tocsin_detectors import Observations

SAFE = safe_traffic(400, seed=21)


def bundle_with(path: Path, **parts: Any) -> Path:
    dataclasses.replace(quick_bundle(path), **parts).write(path)
    return path


def grouped(path: Path) -> Path:
    bundle = quick_bundle(path)
    scores = bundle.scorer(safe_traffic(1_500, seed=1))
    groups = ["calm" if row % 2 else "wild" for row in range(1_500)]
    scores[::2] *= 3  # the wild ones score higher
    return bundle_with(path, promise=calibrate(scores, groups=groups, detectors=bundle.scorer.detectors))


def by_class(path: Path, signal: str = "probs") -> Path:
    """A promise for each choice of `probs`, or for each label of another signal, even or odd rows."""
    bundle, safe = quick_bundle(path), safe_traffic(3_000, seed=4)
    classes = Classes(signal, 10 if signal == "probs" else 1)
    names = classes.of(safe["probs"] if signal == "probs" else np.arange(3_000)[:, None] % 2.0)
    terms: dict[str, Any] = {"on_average": True, "detectors": bundle.scorer.detectors}
    promise = calibrate(bundle.scorer(safe), {"warning": 0.1}, groups=names, **terms)
    promise.classes = classes
    return bundle_with(path, promise=promise)


def in_sessions(path: Path, **rule: Any) -> Path:
    bundle = quick_bundle(path)
    scores = bundle.scorer(safe_traffic(3_000, seed=2))
    promise = calibrate_sessions(
        np.split(scores, 300), {"warning": 0.1, "critical": 0.05}, session=SessionRule(**rule), rule="all"
    )
    return bundle_with(path, promise=promise)


def weighed(path: Path, **more: Any) -> Path:
    bundle = quick_bundle(path)
    scores = bundle.scorer(safe_traffic(1_500, seed=3))
    right = np.random.default_rng(3).random(1_500) > scores[:, 0] / scores[:, 0].max()
    return bundle_with(path, risk=fit_risk_policy(scores, right, column=0, **more))


def model(bundle: Path, **more: Any) -> dict[str, Any]:
    signals = {"probs": "response.outputs.probs", "embedding": "response.outputs.embedding"}
    return {"models": {"digits": {"bundle": bundle, "signals": signals, "session": "metadata.x-session", **more}}}


@contextmanager
def served(bundle: Path, answers: Observations = SAFE, **more: Any) -> Iterator[Running]:
    with model_server() as (server, address):
        server.answers = {b"%d" % row: inference(answers, slice(row, row + 1)) for row in range(answers.rows)}
        server.answers[b"far"] = inference(far_away(1), slice(0, 1))
        server.answers[b"batch"] = inference(answers, slice(0, 3))
        config = settings(address, bundle, admin="127.0.0.1:0", **model(bundle, **more))
        with running(config) as relay:
            yield relay


def ask(relay: Running, request: bytes, *metadata: tuple[str, str]) -> Verdict:
    with grpc.insecure_channel(relay.target) as channel:
        _, call = channel.unary_unary(INFER).with_call(request, metadata=metadata, timeout=60)
    verdict: Verdict | None = tocsin.verdict(call)
    assert verdict is not None and verdict.unscored is None
    return verdict


def metric(relay: Running, line: str) -> float:
    values = [text for text in relay.metrics.splitlines() if text.startswith(line + " ")]
    return float(values[0].rpartition(" ")[2]) if values else 0.0
