"""Claims about `tocsin calibrate` on recordings that are no independent draws: it says so, uses less, or refuses."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from tests.command import tocsin

from tocsin_calibration import Bundle

START = datetime.datetime(2026, 11, 24, 6, 0)
Floats = NDArray[np.float64]


def written(path: Path, signal: Floats, **columns: Any) -> Path:
    """A recording of one signal (n, 6), a response a second."""
    times = [START + datetime.timedelta(seconds=second) for second in range(len(signal))]
    vector = pa.FixedSizeListArray.from_arrays(pa.array(signal.astype(np.float32).ravel()), signal.shape[1])
    pq.write_table(pa.table({"time": times, "signal.embedding": vector, **columns}), path)
    return path


def normal(rows: int, seed: int) -> Floats:
    return np.random.default_rng(seed).normal(size=(rows, 6))


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that was fitted on another recording, so that all rows of one are calibrated on."""
    folder = tmp_path_factory.mktemp("looking")
    bundle = folder / "fitted.tocsin"
    tocsin("fit", written(folder / "fit.parquet", normal(400, 0)), "-o", bundle, "-d", "mahalanobis:embedding")
    return bundle


def calibrated(fitted: Path, recording: Path, *more: object) -> tuple[Bundle, str]:
    out = recording.with_suffix(".tocsin")
    said = tocsin("calibrate", fitted, recording, "-o", out, *map(str, more)).stdout
    return Bundle.read(out), said


def refused(fitted: Path, recording: Path, *more: object) -> str:
    return tocsin("calibrate", fitted, recording, "-o", recording.with_suffix(".no"), *map(str, more), code=2).stderr


def facts(bundle: Bundle) -> dict[str, Any]:
    calibrated: dict[str, Any] = bundle.provenance["calibrated"]
    return calibrated


def test_a_clean_recording_is_calibrated_as_it_always_was(fitted: Path, tmp_path: Path) -> None:
    recording = written(tmp_path / "clean.parquet", normal(1_500, 1), session=[f"s{at // 5}" for at in range(1_500)])
    bundle, said = calibrated(fitted, recording)
    as_it_is, _ = calibrated(fitted, recording, "--as-is")
    assert "note" not in said and "look" not in facts(bundle) and facts(bundle)["rows"] == facts(as_it_is)["rows"]
    thresholds = [b.require_promise().limits.laws for b in (bundle, as_it_is)]
    assert thresholds[0] == thresholds[1]


def test_a_recording_three_times_over_is_refused(fitted: Path, tmp_path: Path) -> None:
    recording = written(tmp_path / "thrice.parquet", np.tile(normal(500, 2), (3, 1)))
    assert "67% of the responses are copies of others, up to 3 of each" in (said := refused(fitted, recording))
    assert "--as-is" in said
    bundle, said = calibrated(fitted, recording, "--as-is")
    assert "note: 67%" in said and facts(bundle)["look"] == {"copies": 3, "as_is": True}
    assert facts(bundle)["rows"] == 1_500


def test_copies_are_seen_behind_the_share_that_was_fitted_on(tmp_path: Path) -> None:
    recording = written(tmp_path / "thrice.parquet", np.tile(normal(600, 3), (3, 1)))
    bundle = tmp_path / "fitted.tocsin"
    tocsin("fit", recording, "-o", bundle, "-d", "mahalanobis:embedding", "--share", "0.25")
    assert "are copies of others" in refused(bundle, recording)


def test_a_recording_that_drifts_is_refused_where_alarms_would(fitted: Path, tmp_path: Path) -> None:
    signal = normal(2_000, 4)
    signal[1_500:] *= 1.5
    recording = written(tmp_path / "drift.parquet", signal)
    said = refused(fitted, recording)
    assert "scores change in the course of the recording" in said and "By mahalanobis, " in said
    assert "--newest" in said and "--exclude" in said
    bundle, said = calibrated(fitted, recording, "--newest", 500)
    assert "note" not in said and facts(bundle)["rows"] == 500
    bundle, said = calibrated(fitted, recording, "--as-is")
    assert "note: scores change" in said and facts(bundle)["look"]["drift_log_evalue"] > 7.6
    grouped = written(tmp_path / "grouped.parquet", signal, group=["a" if at < 1_500 else "b" for at in range(2_000)])
    _, said = calibrated(fitted, grouped, "--groups", "group")  # what changes may be what groups are for
    assert "note: scores change" in said


def test_neighbours_in_time_that_are_alike_count_as_fewer(fitted: Path, tmp_path: Path) -> None:
    recording = written(tmp_path / "slow.parquet", np.repeat(normal(600, 5), 4, axis=0) + 0.05 * normal(2_400, 6))
    bundle, said = calibrated(fitted, recording)
    assert "neighbours in time are alike" in said and "2,400 responses are worth about" in said
    assert 480 <= facts(bundle)["rows"] <= 800 and facts(bundle)["look"]["used"] == facts(bundle)["rows"]
    assert bundle.require_promise().n < 2 * 800 / 3 + 1
    bundle, said = calibrated(fitted, recording, "--as-is")
    assert facts(bundle)["rows"] == 2_400 and "all are, as asked" in said


def test_responses_of_one_session_count_as_one_where_they_are_alike(fitted: Path, tmp_path: Path) -> None:
    draw = np.random.default_rng(7)
    session = np.repeat(np.arange(300), 8)[draw.permutation(2_400)]
    width = draw.lognormal(0, 0.5, 300)
    recording = written(
        tmp_path / "sessions.parquet", normal(2_400, 8) * width[session][:, None], session=[f"s{s}" for s in session]
    )
    bundle, said = calibrated(fitted, recording)
    assert "responses of one session are alike" in said and "--sessions session" in said
    assert facts(bundle)["rows"] == 300
    _, said = calibrated(fitted, recording, "--sessions", "session")
    assert "alike" not in said and "sessions like the" in said


def test_versions_that_differ_are_named(fitted: Path, tmp_path: Path) -> None:
    draw = np.random.default_rng(9)
    second = draw.random(1_500) < 0.3
    signal = normal(1_500, 10) * np.where(second, 1.6, 1.0)[:, None]
    recording = written(tmp_path / "versions.parquet", signal, version=np.where(second, "2", "1").tolist())
    _, said = calibrated(fitted, recording)
    assert (
        "2 versions of the model are in the recording, and their scores differ" in said and "--groups version" in said
    )
