"""Claims about signals on their way from the wire: free lengths, several axes, models before detectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from benchmarks.harness.parts import INFER
from tests.detectors.test_surroundings import embedder

from tocsin.configuration.config import Config
from tocsin.judgement.call import Call
from tocsin.judgement.guard import Guard
from tocsin.protocols import oip
from tocsin.recording.reading import read_recording
from tocsin.recording.recorder import Recorder
from tocsin_calibration import Bundle, calibrate
from tocsin_detectors import Features, Observations, compile
from tocsin_detectors.graph import free_lengths
from tocsin_detectors.registry import parse

RNG = np.random.default_rng(0)


def guard(folder: Path, specs: list[str], safe: Observations, *features: Features) -> Guard:
    scorer = compile([parse(spec) for spec in specs], fit_on=safe, features=features)
    promise = calibrate(scorer(safe), {"warning": 0.1}, detectors=scorer.detectors)
    Bundle(scorer, promise, "m").write(folder / "m.tocsin")
    signals = {name: f"response.outputs.{name}" for name in scorer.signals}
    return Guard.open(Config(models={"m": {"bundle": str(folder / "m.tocsin"), "signals": signals}}))


def call(by: Guard, **tensors: np.ndarray) -> Call:
    message = oip.Response(model_name="m")
    kinds = {"f": "FP32", "i": "INT64"}
    for name, values in tensors.items():
        message.outputs.add(name=name, datatype=kinds[values.dtype.kind]).shape.extend(values.shape)
        message.raw_output_contents.append(values.tobytes())
    guarded_call = by.call(INFER, {})
    assert guarded_call is not None
    guarded_call.response = message.SerializeToString()
    return guarded_call


def test_token_streams_of_any_length_are_judged_each_as_it_is(tmp_path: Path) -> None:
    logprobs = np.log(RNG.uniform(0.05, 1, (200, 30))).astype(np.float32)
    for row, length in enumerate(RNG.integers(2, 30, 200)):
        logprobs[row, length:] = 1
    by = guard(tmp_path, ["mean_surprisal"], Observations({"token_logprobs": logprobs}))
    usual, strange = np.full(7, -0.8, np.float32), np.full(40, -3.0, np.float32)
    calls = [call(by, token_logprobs=stream[None]) for stream in (usual, strange, usual[:3])]
    by.judge(calls)
    assert [judged.verdict and judged.verdict.severity for judged in calls] == [None, "warning", None]
    assert [judged.verdict and judged.verdict.unscored for judged in calls] == [None, None, None]
    empty, broken = call(by, token_logprobs=usual[None, :0]), call(by, token_logprobs=usual[None] * np.nan)
    by.judge([empty, broken])
    assert [judged.verdict and judged.verdict.unscored for judged in (empty, broken)] == ["shape", "not_finite"]


def test_one_broken_row_in_a_batch_spoils_no_other(tmp_path: Path) -> None:
    ids = RNG.integers(0, 50, (300, 9))
    safe = Observations({"ids": ids, "mask": np.ones_like(ids)})
    by = guard(tmp_path, ["mahalanobis"], safe, Features("embedding", embedder()))
    rows = [ids[[0], :5], ids[[1], :5], np.full((1, 5), 77), ids[[2], :5]]  # the embedder's table ends at 49
    calls = [call(by, ids=row, mask=np.ones_like(row)) for row in rows]
    by.judge(calls)
    reasons = [judged.verdict.unscored for judged in calls if judged.verdict]
    assert reasons == [None, None, "scorer_error", None]
    alone = call(by, ids=rows[0], mask=np.ones_like(rows[0]))
    by.judge([alone])
    assert alone.verdict and calls[0].verdict
    assert alone.verdict.pvalues[0] == pytest.approx(calls[0].verdict.pvalues[0], rel=1e-4)


def test_sampled_actions_come_with_or_without_a_batch_axis(tmp_path: Path) -> None:
    actions = (RNG.normal(size=(200, 1, 4, 2)) + 0.1 * RNG.normal(size=(200, 8, 4, 2))).astype(np.float32)
    by = guard(tmp_path, ["ace", "sample_variance"], Observations({"actions": actions}))
    wild = RNG.normal(size=(8, 4, 2)).astype(np.float32)
    calls = [call(by, actions=part) for part in (actions[:1], actions[0], wild, np.stack([actions[0], wild]))]
    by.judge(calls)
    verdicts = [judged.verdict for judged in calls if judged.verdict]
    assert [verdict.severity for verdict in verdicts] == [None, None, "warning", "warning"]
    assert verdicts[0].pvalues == verdicts[1].pvalues
    assert list(verdicts[3].severities) == [None, "warning"]


def test_recordings_keep_shapes_and_lengths(tmp_path: Path) -> None:
    signals = {name: f"response.outputs.{name}" for name in ("actions", "token_logprobs")}
    recorder = Recorder.open(Config(models={"m": {"signals": signals}}))
    recorder.start(tmp_path, 100)
    for length in (3, 5, 3):
        shown = {"actions": RNG.normal(size=(1, 8, 4, 2)), "token_logprobs": -RNG.uniform(size=(1, length))}
        recorder.guard.judge(
            [call(recorder.guard, **{name: values.astype(np.float32) for name, values in shown.items()})]
        )
    recorder.close()
    detectors = [parse("sample_variance"), parse("mean_surprisal")]
    recording = read_recording(tmp_path, free=free_lengths(detectors))
    assert recording.rows == 3 and recording.shape("actions") == (8, 4, 2)
    assert sorted((recording.load()["token_logprobs"] <= 0).sum(axis=1)) == [3, 3, 5]
    compile(detectors, fit_on=recording)
