"""Work over many recorded files is the same here, in parts, and on a real Ray cluster whose workers die."""

import os
import signal
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from benchmarks.harness.parts import safe_traffic
from typer.testing import CliRunner

from tocsin.cli.main import app
from tocsin.errors import ConfigError, RecordingError
from tocsin.offline.calibrating import RecordedResponses
from tocsin.offline.engine import Here, OnRay, engine_of
from tocsin.offline.evaluating import evaluate_files
from tocsin.offline.fitting import fit_detectors
from tocsin.offline.scoring import SCORE_PREFIX, ScoreReader, responses_of, write_scores
from tocsin_calibration import Bundle, CalibrationError, calibrate, evaluate
from tocsin_calibration.sweeps import calibrate_in_sweeps
from tocsin_detectors import Entropy, KMeansDistance, Mahalanobis, compile

ALPHAS = {"warning": 0.05, "critical": 0.01}


@pytest.fixture(scope="module")
def ray():
    engine = OnRay()
    yield engine
    engine._ray.shutdown()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    safe = safe_traffic(300)
    return Bundle(compile([Entropy(), Mahalanobis()], fit_on=safe), None, "digits").write(
        tmp_path_factory.mktemp("bundle") / "digits.tocsin"
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recording")
    safe = safe_traffic(6_000)
    for at, rows in enumerate(np.array_split(np.arange(6_000), 5)):
        part = safe.take(rows)
        columns: dict[str, Any] = {f"signal.{name}": list(part[name]) for name in part}
        columns["model"], columns["right"] = ["digits"] * len(rows), rows % 7 > 0
        pq.write_table(pa.table(columns), folder / f"{at}.parquet", row_group_size=500)
    return folder


def swept(bundle, data, engine, **terms):
    responses = RecordedResponses(ScoreReader.of(bundle), responses_of(bundle, data, None), engine)
    return calibrate_in_sweeps(responses, ALPHAS, detectors=bundle.scorer.detectors, **terms)


def same(promise, other):
    assert promise.thresholds == other.thresholds and promise.laws == other.laws
    assert np.array_equal(promise.nonconformity.scores, other.nonconformity.scores)
    assert np.array_equal(promise.reference, other.reference)


def test_file_by_file_is_as_in_one_memory_and_on_a_cluster(bundle, data, ray):
    here = swept(bundle, data, Here())
    same(here, calibrate(ScoreReader.of(bundle).all(responses_of(bundle, data, None)), ALPHAS))
    same(here, swept(bundle, data, ray))


def die_once(shared, item):
    """Kill the process of the worker the first time that item 2 is processed."""
    folder, more = shared
    mark = folder / f"died-{item}"
    if item == 2 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return more + item, os.getpid()


def test_a_worker_killed_in_the_middle_changes_nothing(tmp_path, ray):
    results = list(ray.map(die_once, (tmp_path, 10), range(20)))
    assert [value for value, _ in results] == list(range(10, 30))
    assert (tmp_path / "died-2").exists() and os.getpid() not in {process for _, process in results}


def test_what_the_function_raised_is_raised_here(data, bundle, tmp_path, ray):
    table = pq.read_table(data / "3.parquet")
    broken = np.full((len(table), 10), np.nan, np.float32)
    for at in (0, 3):
        written = table if at == 0 else table.set_column(
            table.column_names.index("signal.probs"), "signal.probs", pa.array(list(broken))
        )  # fmt: skip
        pq.write_table(written, tmp_path / f"{at}.parquet")
    for engine in (Here(), ray):
        with pytest.raises(CalibrationError, match="NaN or infinite score"):
            swept(bundle, tmp_path, engine)


def test_scores_written_once_are_calibrated_on_and_evaluated_like_the_recording(bundle, data, tmp_path, ray):
    scoring, recording = ScoreReader.of(bundle), responses_of(bundle, data, None)
    for part in recording.parts():
        assert write_scores(scoring, part, tmp_path) is not None
        assert write_scores(scoring, part, tmp_path) is None  # done before
    scored = responses_of(bundle, tmp_path, None)
    assert scored.prefix == SCORE_PREFIX and scored.column("right").tolist() == recording.column("right").tolist()
    promise = swept(bundle, tmp_path, ray)
    same(promise, swept(bundle, data, Here()))
    at_once = evaluate(promise, scoring.all(recording))
    for engine in (Here(), ray):
        parts = evaluate_files(promise, scoring, scored, engine)
        assert parts.severities == at_once.severities and parts.pvalues == at_once.pvalues


def test_scores_of_another_graph_are_refused(bundle, data, tmp_path):
    for part in responses_of(bundle, data, None).parts():
        write_scores(ScoreReader.of(bundle), part, tmp_path)
    other = Bundle(compile([Entropy(), Mahalanobis()], fit_on=safe_traffic(310)), None)
    with pytest.raises(RecordingError, match="tocsin score"):
        responses_of(other, tmp_path, None)
    with pytest.raises(RecordingError, match="name the recording that was scored"):
        responses_of(bundle, tmp_path, None, ["probs"])


def test_detectors_fitted_on_a_cluster_score_as_those_fitted_here(ray):
    safe, fresh = safe_traffic(400), safe_traffic(50)
    here = fit_detectors([Entropy(), Mahalanobis(), KMeansDistance()], safe, 0, Here())
    there = fit_detectors([Entropy(), Mahalanobis(), KMeansDistance()], safe, 0, ray)
    np.testing.assert_allclose(compile(there, safe)(fresh), compile(here, safe)(fresh), rtol=1e-5)


def test_a_cluster_that_is_late_to_start_is_started_again(monkeypatch, caplog):
    ray_package = pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    late = Exception("The current node timed out during startup.")  # what Ray raises after 30 seconds
    starts: list[Any] = []

    def init(**options):
        starts.append(options["address"])
        if len(starts) < 3:
            raise late

    monkeypatch.setattr(ray_package, "is_initialized", lambda: len(starts) == 3)
    monkeypatch.setattr(ray_package, "init", init)
    OnRay()
    assert starts == [None] * 3 and len(caplog.records) == 2

    monkeypatch.setattr(ray_package, "is_initialized", lambda: False)
    monkeypatch.setattr(ray_package, "init", _raises(late))
    with pytest.raises(ConfigError, match="tried 3 times: The current node timed out"):
        OnRay()
    with pytest.raises(ConfigError, match=r"no Ray cluster at 127\.0\.0\.1:1: The current node"):
        OnRay("127.0.0.1:1")


def _raises(error):
    def function(**_options):
        raise error

    return function


def test_an_engine_is_told_by_name():
    assert isinstance(engine_of("here"), Here)
    with pytest.raises(ConfigError, match="here, ray"):
        engine_of("spark")


def test_the_commands_on_a_cluster_give_what_they_give_here(data, tmp_path, ray):
    run = partial(CliRunner().invoke, app, catch_exceptions=False)
    bundle, scores = tmp_path / "b.tocsin", tmp_path / "scores"
    assert (
        run(["fit", str(data), "-o", str(bundle), "-d", "entropy", "-d", "mahalanobis", "--on", "ray"]).exit_code == 0
    )
    assert "3,600 responses in 5 files (5 written now)" in run(["score", str(bundle), str(data), str(scores)]).output
    again = run(["score", str(bundle), str(data), str(scores), "--on", "ray"]).output
    assert "5 files (0 written now)" in again
    promises = {}
    for where, source in (("here", data), ("ray", data), ("ray", scores), ("here", scores)):
        out = tmp_path / f"{where}-{source.name}.tocsin"
        result = run(["calibrate", str(bundle), str(source), "-o", str(out), "--share", "0.5", "--on", where])
        assert result.exit_code == 0 and "promises, on 1,800 responses" in result.output
        promises[out] = Bundle.read(out).require_promise()
        said = run(["evaluate", str(out), str(source), "--on", where])
        assert said.exit_code == 0 and "of 1,800" in said.output
    same(promises[tmp_path / f"here-{data.name}.tocsin"], promises[tmp_path / f"ray-{data.name}.tocsin"])
    same(promises[tmp_path / "here-scores.tocsin"], promises[tmp_path / "ray-scores.tocsin"])
    refused = CliRunner().invoke(app, ["calibrate", str(bundle), str(scores), "--correct", "right", "--on", "ray"])
    assert isinstance(refused.exception, CalibrationError) and "leave --on out" in str(refused.exception)
