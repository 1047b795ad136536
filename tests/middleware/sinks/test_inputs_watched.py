"""Claims about inputs while traffic flows: a harmless change is told as one, and counts are the same from workers."""

from __future__ import annotations

import dataclasses
import io
import json
from functools import partial
from math import log
from pathlib import Path

import numpy as np
import pytest
from benchmarks.harness.parts import quick_bundle, safe_traffic, settings
from rich.console import Console
from tests.middleware.replay.test_replay import recorded
from tests.middleware.sinks.test_causes import judge
from typer.testing import CliRunner

from tocsin.cli.main import app
from tocsin.judgement.guard import Guard
from tocsin.judgement.sink import Scored
from tocsin.page.history import History
from tocsin.page.snapshot import snapshot
from tocsin.page.terminal import picture
from tocsin.replay.replay import replay
from tocsin.sinks.evidence import Evidence
from tocsin.sinks.group_numbers import GroupNumbers
from tocsin.sinks.prometheus import PrometheusSink
from tocsin.sinks.tally import Tally
from tocsin_calibration import Bundle, BundleError, calibrate
from tocsin_calibration.online.inputs import STRIDE, InputsReference
from tocsin_detectors import Observations

LIMIT = log(100)


@pytest.fixture(scope="module")
def watching(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quick bundle, which keeps what it has seen of embeddings."""
    path = tmp_path_factory.mktemp("inputs") / "digits.tocsin"
    bundle = quick_bundle(path)
    promise = bundle.require_promise()
    safe = safe_traffic(800, seed=31)["embedding"]
    promise.inputs = InputsReference.of(("embedding",), safe[:300], safe[300:])
    dataclasses.replace(bundle, promise=promise).write(path)
    return path


def opened(bundle: Path) -> tuple[Guard, PrometheusSink]:
    guard = Guard.open(settings(1, bundle))
    sink = PrometheusSink(guard.models)
    guard.sinks.append(sink)
    return guard, sink


def folded(rows: int, seed: int) -> Observations:
    """All from one side of one direction: as far from the middle as ever, so that scores do not move."""
    safe = safe_traffic(rows, seed)
    embedding = safe["embedding"].copy()
    embedding[:, 0] = np.abs(embedding[:, 0])
    return Observations({"probs": safe["probs"], "embedding": embedding})


def test_a_change_that_scores_do_not_show_is_told_as_harmless_everywhere(watching: Path) -> None:
    guard, sink = opened(watching)
    judge(guard, safe_traffic(1_600, seed=5))
    assert sink.figures()["digits"]["inputs"] < LIMIT and sink.finding("digits") is None
    judge(guard, folded(3_200, seed=6))
    figures = sink.figures()["digits"]
    assert figures["inputs"] > LIMIT and figures["finding"]["words"] == ["inputs changed, alarms as promised"]
    assert figures["finding"]["since"] is None and not figures["finding"]["drifted"]
    samples = [sample for sample in sink.samples() if sample.family.name == "tocsin_inputs_log_evalue"]
    assert [(sample.labels, sample.value) for sample in samples] == [(("digits",), figures["inputs"])]
    drawn = io.StringIO()
    Console(file=drawn, width=200).print(picture(snapshot(sink, [], History(sink.counts), "observe")))
    assert "inputs changed, alarms as promised" in drawn.getvalue()
    assert f"other than at calibration; evidence of a change e^{figures['inputs']:.1f}" in drawn.getvalue()
    assert "Yes so far, with inputs that are other than at calibration: digits." in drawn.getvalue()


def test_a_change_that_scores_follow_is_told_with_them(watching: Path) -> None:
    guard, sink = opened(watching)
    safe = safe_traffic(1_600, seed=8)
    judge(guard, Observations({"probs": safe["probs"], "embedding": safe["embedding"] + 1.0}))
    words = sink.figures()["digits"]["finding"]["words"]
    assert words[-1] in ("inputs changed, and alarms too", "inputs changed, and scores too")


def test_a_bundle_that_keeps_no_inputs_watches_none(bundle: Path) -> None:
    guard, sink = opened(bundle)
    judge(guard, folded(400, seed=6))
    assert sink.figures()["digits"]["inputs"] is None
    assert not [sample for sample in sink.samples() if sample.family.name == "tocsin_inputs_log_evalue"]


def test_every_eighth_response_is_taken_whatever_the_batches(watching: Path) -> None:
    counts = []
    for batch in (1, 3, 20, 200):
        guard, sink = opened(watching)
        judge(guard, safe_traffic(400, seed=9), batch=batch)
        with sink._counted():
            evidence = sink._series["digits"].judged.evidence
            assert evidence is not None
            tally = evidence.tally
        waiting = sum(len(features) for features in tally.projected())
        assert evidence._inputs is not None
        counts.append(evidence._inputs.pairs + len(evidence._inputs._waiting) + waiting)
    assert counts == [400 // STRIDE] * 4


def test_what_workers_have_seen_is_what_one_process_would(watching: Path) -> None:
    guard, sink = opened(watching)
    other, worker = Guard.open(settings(1, watching)), None
    supervisor = PrometheusSink(other.models)
    worker = PrometheusSink(other.models, sends_counts=True)
    other.sinks.append(worker)
    for seed in range(4):
        judge(guard, folded(800, seed))
        judge(other, folded(800, seed))
        supervisor.merge(json.loads(json.dumps(worker.take_delta())))
    pairs = []
    for counting_sink in (sink, supervisor):
        assert counting_sink.figures()["digits"]["inputs"] > LIMIT
        evidence = counting_sink._series["digits"].judged.evidence
        assert evidence is not None and evidence._inputs is not None
        pairs.append(evidence._inputs.pairs)
    assert pairs[0] == pairs[1] == 4 * 800 // STRIDE


def test_a_bundle_whose_graph_does_not_read_the_signals_is_refused(watching: Path, tmp_path: Path) -> None:
    bundle = Bundle.read(watching)
    promise = bundle.require_promise()
    assert promise.inputs is not None
    for signals in (("mood",), ("embedding", "probs")):
        promise.inputs = promise.inputs._replace(signals=signals)
        bundle.write(tmp_path / "other.tocsin")
        with pytest.raises(BundleError, match="signals that its graph does not read"):
            Bundle.read(tmp_path / "other.tocsin")


def test_signals_of_another_width_or_not_finite_are_left_out(watching: Path) -> None:
    _, sink = opened(watching)
    promise = Bundle.read(watching).require_promise()
    evidence = sink._series["digits"].judged.evidence
    assert evidence is not None and promise.inputs is not None
    for embedding in (np.zeros((16, 5), np.float32), np.full((16, 8), np.inf, np.float32)):
        batch = Scored("digits", (), np.zeros((16, 2), np.float32), 0.0, signals=partial(dict, embedding=embedding))
        evidence.tally._take_inputs(batch, 16)
    assert evidence.tally.projected() == []


@pytest.mark.parametrize("waiting_bytes", [1, 1 << 18])
@pytest.mark.parametrize("names", [("embedding",), ("probs", "embedding")])
def test_what_is_taken_is_projected_as_it_came_at_whatever_times(names: tuple[str, ...], waiting_bytes: int) -> None:
    safe = safe_traffic(640, seed=12)
    signals = np.hstack([safe[name] for name in names]).astype(np.float32)
    promise = calibrate(np.random.default_rng(0).normal(size=(900, 2)))
    promise.inputs = InputsReference.of(names, signals[:320], signals[320:])
    tally = Tally(promise, GroupNumbers([]), in_order=False, scores=True)
    tally.most_waiting_bytes = waiting_bytes
    start = 0
    for rows in (1, 3, 20, 7, 9, 200, 1, 1, 8, 16):
        of_batch = {name: safe[name][start : start + rows].astype(np.float32) for name in names}
        batch = Scored("m", (), np.zeros((rows, 2), np.float32), 0.0, [0.0] * rows, signals=partial(dict, of_batch))
        tally.add(batch, rows, False, [("v", rows)])
        start += rows
    features = np.concatenate(tally.projected())
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, promise.inputs.features(signals[:start:STRIDE]), rtol=1e-5, atol=1e-6)


def test_a_replay_says_of_inputs_what_serving_does(watching: Path, tmp_path: Path) -> None:
    calm, moved = safe_traffic(1_600, seed=5), folded(3_200, seed=6)
    traffic = Observations({name: np.vstack([calm[name], moved[name]]) for name in calm})
    promise, scorer = Bundle.read(watching).require_promise(), Bundle.read(watching).scorer
    result = replay(promise, scorer(traffic), inputs=traffic["embedding"])
    evidence = Evidence(promise, 1_000, fixed=True, seed=0)
    guard, sink = opened(watching)
    sink._series["digits"].judged.evidence = evidence
    judge(guard, traffic)
    assert sink.figures()["digits"]["inputs"] == pytest.approx(result.inputs[-1], rel=1e-5)
    assert result.inputs_changed is not None and result.inputs_changed > 1_600
    recording = recorded(tmp_path / "traffic.parquet", traffic)
    output = CliRunner().invoke(app, ["replay", str(recording), str(watching)]).output
    assert f"A change of inputs would have been reported after {result.inputs_changed:,}." in output
    assert "Inputs changed, alarms as promised." in output
    assert result.facts()["inputs_changed"] == result.inputs_changed
    without = replay(promise, scorer(traffic))
    assert without.inputs == [] and without.inputs_changed is None and without.evidence == result.evidence
