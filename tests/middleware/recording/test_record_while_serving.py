"""Claims about recording while serving: which responses are kept, within which bounds, and what of it is on disk."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import (
    INFER,
    SIGNALS,
    at_once,
    far_away,
    free_port,
    inference,
    inline_guard,
    running,
    settings,
)
from benchmarks.harness.served import SAFE, in_sessions
from scipy.stats import binom

from tocsin.checking import file_problems
from tocsin.configuration.config import Config
from tocsin.configuration.record import RecordConfig
from tocsin.errors import RecordingError
from tocsin.protocols import oip
from tocsin.recording.reading import read_recording
from tocsin.recording.reservoir import LARGEST_SHARE, OVERHEAD, RecordedRow, RowReservoir
from tocsin.recording.sampling import SampleSink
from tocsin_calibration import Bundle, calibrate
from tocsin_detectors import Entropy, compile
from tocsin_detectors.free_length import FreeLength


def row(number: int, session: str = "", width: int = 4) -> RecordedRow:
    return RecordedRow(number, "v1", "/m", session, "", {"x": np.full(width, number, np.float32)}, {"x": (width,)})


def numbers(reservoir: RowReservoir) -> list[int]:
    return [int(response.time) for response in reservoir.content()]


def fill(reservoir: RowReservoir, count: int) -> RowReservoir:
    for number in range(count):
        for _, drawn in reservoir.draw_below(1):
            reservoir.add(drawn, row(number))
    return reservoir


def test_each_response_is_kept_with_the_same_chance() -> None:
    """How often each of 40 responses is among the 10 kept in 2,000 runs has a binomial law, p = 1/4."""
    runs, times = 2_000, np.zeros(40, int)
    for seed in range(runs):
        sampled = numbers(fill(RowReservoir(10, 1 << 20, seed=seed), 40))
        assert len(sampled) == 10 and sampled == sorted(sampled)
        times[sampled] += 1
    low, high = binom.ppf([1e-5 / 80, 1 - 1e-5 / 80], runs, 0.25)
    assert (times >= low).all() and (times <= high).all()


def test_pairs_of_responses_are_kept_together_as_often_as_of_a_sample_without_replacement() -> None:
    runs, together = 2_000, 0
    for seed in range(runs):
        sampled = set(numbers(fill(RowReservoir(10, 1 << 20, seed=seed), 40)))
        together += {3, 37} <= sampled
    low, high = binom.ppf([1e-5 / 2, 1 - 1e-5 / 2], runs, 10 * 9 / (40 * 39))
    assert low <= together <= high


def test_bounds_of_rows_and_bytes_hold_at_any_time_and_bytes_are_counted() -> None:
    size = row(0).size
    assert size >= OVERHEAD + 16
    reservoir = RowReservoir(1_000, 100 * size, seed=1)
    for number in range(2_000):
        reservoir.add(reservoir.draw(), row(number))
        assert len(reservoir) <= 100 and reservoir.bytes == len(reservoir) * size
    assert len(reservoir) == 100


def test_one_giant_response_drives_no_others_out() -> None:
    reservoir = RowReservoir(1_000, 1 << 20, seed=1)
    fill(reservoir, 300)
    before = numbers(reservoir)
    reservoir.add(0.0, row(-1, width=int((1 << 20) * LARGEST_SHARE)))
    assert numbers(reservoir) == before and reservoir.left_out == 1


def test_a_session_stays_or_goes_with_all_of_its_responses() -> None:
    reservoir = RowReservoir(50, 1 << 20, seed=5)
    for number in range(600):
        session = f"s{number % 60}"
        reservoir.add(reservoir.draw(session), row(number, session))
    sampled = [(response.session, int(response.time)) for response in reservoir.content()]
    sessions = {session for session, _ in sampled}
    assert len(sessions) in (4, 5)
    assert all(len([1 for session, _ in sampled if session == name]) == 10 for name in sessions)


def test_names_of_sessions_that_stay_cannot_be_foreseen() -> None:
    first, second = RowReservoir(1, 1 << 20), RowReservoir(1, 1 << 20)
    assert first.draw("s") == first.draw("s") != second.draw("s")
    first.draw("\ud800")  # whatever the metadata held


def serve(upstream: str, bundle: Path, folder: Path, **more: Any) -> Config:
    return settings(upstream, bundle, record={"to": folder, "every": "1h", **more})


def ask(target: str, requests: list[bytes]) -> None:
    with grpc.insecure_channel(target) as channel:
        for number, request in enumerate(requests):
            channel.unary_unary(INFER)(request, metadata=(("x-session", f"s{number % 3}"),), timeout=60)


def test_what_is_judged_is_written_at_the_end_as_tocsin_record_writes_it(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "record"
    with model_server() as (model, address):
        model.answers = {b"%d" % at: inference(SAFE, slice(at, at + 1)) for at in range(20)}
        model.answers |= {b"batch": inference(SAFE, slice(0, 3)), b"far": inference(far_away(1), slice(0, 1))}
        model.answers[b"broken"] = b"\xff"
        with running(serve(address, bundle, folder)) as relay:
            ask(relay.target, [*(b"%d" % at for at in range(20)), b"batch", b"far", b"broken"])
            assert 'tocsin_recording_responses{model="digits"} 24.0' in relay.metrics
            assert relay.metric("tocsin_recording_bytes", model="digits") > 24 * OVERHEAD
            assert list(folder.iterdir()) == []
    (file,) = folder.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    recording = read_recording(folder)
    for name in ("probs", "embedding"):
        expected = np.vstack([SAFE[name][:20], SAFE[name][:3], far_away(1)[name]])
        np.testing.assert_array_equal(recording.load()[name], expected)
    table = pq.read_table(file)
    assert table.column("session").to_pylist()[:4] == ["s0", "s1", "s2", "s0"]
    assert set(table.column("model").to_pylist()) == {"digits"}
    assert set(table.column("version").to_pylist()) == {"v1"} and set(table.column("method").to_pylist()) == {INFER}


def test_rows_that_nobody_waited_for_are_left_out_with_their_signals(bundle: Path, tmp_path: Path) -> None:
    config = serve("127.0.0.1:1", bundle, tmp_path)
    guard = inline_guard(config)
    sink = SampleSink(guard.models, config.record or RecordConfig(to=tmp_path))
    guard.sinks.append(sink)
    calls = []
    for at in range(4):
        call = guard.call(INFER, {})
        assert call is not None
        call.response, call.is_late = inference(SAFE, slice(at, at + 1)), at == 1
        calls.append(call)
    guard.judge(calls)
    sink.close()
    np.testing.assert_array_equal(read_recording(tmp_path).load()["probs"], SAFE["probs"][[0, 2, 3]])


def test_sigterm_writes_what_a_serving_process_has_kept(bundle: Path, tmp_path: Path) -> None:
    port, file = free_port(), tmp_path / "tocsin.yaml"
    with model_server() as (model, address):
        model.answers = {b"0": inference(SAFE, slice(0, 1))}
        content = {
            "listen": f"127.0.0.1:{port}", "upstream": address, "metrics": None, "admin": None,
            "record": {"to": "record"}, "models": {"digits": {"bundle": str(bundle), "signals": SIGNALS}},
        }  # fmt: skip
        file.write_text(yaml.safe_dump(content))
        command = [sys.executable, "-m", "tocsin", "serve", "-c", str(file)]
        process = subprocess.Popen(command, env=at_once(), stderr=subprocess.PIPE)
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                grpc.channel_ready_future(channel).result(120)
                for _ in range(7):
                    channel.unary_unary(INFER)(b"0", timeout=60)
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 0, errors
    assert read_recording(tmp_path / "record").rows == 7


def test_workers_share_the_bounds_and_write_a_file_each(bundle: Path, tmp_path: Path) -> None:
    config = RecordConfig(to=tmp_path, rows=100, size=1 << 20)  # type: ignore[arg-type]
    models = inline_guard(serve("127.0.0.1:1", bundle, tmp_path)).models
    sink = SampleSink(models, config, processes=4)
    reservoir = sink._sample("digits").reservoir
    assert (reservoir._most_rows, reservoir._most_bytes) == (25, (1 << 20) // 4)
    sink.close()
    assert str(os.getpid()) not in str(list(tmp_path.iterdir()))  # nothing kept, nothing written


def test_a_folder_that_goes_away_hurts_no_call_and_the_sample_is_written_once_it_is_back(
    bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "record"
    with model_server() as (model, address):
        model.answers = {b"0": inference(SAFE, slice(0, 1))}
        with running(serve(address, bundle, folder)) as relay:
            sample = relay.sidecar.sample
            assert sample is not None
            folder.rmdir()
            ask(relay.target, [b"0"] * 5)
            sample._write_all()
            assert relay.metric("tocsin_recording_files_total", outcome="failed") == 1
            assert "the sample of model digits was not written: FileNotFoundError" in caplog.text
            folder.mkdir()
            ask(relay.target, [b"0"])
    assert read_recording(folder).rows == 6


def test_a_new_sample_begins_with_each_period_and_the_oldest_files_go(bundle: Path, tmp_path: Path) -> None:
    with model_server() as (model, address):
        model.answers = {b"%d" % at: inference(SAFE, slice(at, at + 1)) for at in range(6)}
        with running(serve(address, bundle, tmp_path, files=2)) as relay:
            sample = relay.sidecar.sample
            assert sample is not None
            for at in range(6):
                ask(relay.target, [b"%d" % at])
                sample._write_all()
                if at == 0:
                    (before,) = tmp_path.glob("*.parquet")
                    sample._write_all()
                    assert relay.metric("tocsin_recording_files_total", outcome="written") == 1  # nothing new, no file
                sample._begin_anew(at)
    files = sorted(tmp_path.glob("*.parquet"), key=lambda path: path.stat().st_mtime)
    assert len(files) == 2 and before not in files
    np.testing.assert_array_equal(read_recording(tmp_path).load()["probs"], SAFE["probs"][4:6])


def test_streams_of_tokens_of_any_length_share_a_file(tmp_path: Path) -> None:
    sink = SampleSink({}, RecordConfig(to=tmp_path))
    reservoir = sink._sample("a/b").reservoir
    for length in (3, 5, 2):
        logprobs = -np.arange(1, 2 * length + 1, dtype=np.float32)
        signals = {"token_logprobs": logprobs[:length], "top_logprobs": logprobs, "answer_tokens": logprobs}
        shapes = {"token_logprobs": (length,), "top_logprobs": (length, 2), "answer_tokens": (2, length)}
        signals["embedding"], shapes["embedding"] = np.ones(6, np.float32), (2, 3)
        reservoir.add(reservoir.draw(), RecordedRow(length, "", "", "", "", signals, shapes))
    sink.close()
    (file,) = tmp_path.iterdir()
    free = {"token_logprobs": FreeLength(1, axis=0), "top_logprobs": FreeLength(1, axis=0)}
    free["answer_tokens"] = FreeLength(9, axis=1)
    recording = read_recording(file, free=free).load()
    assert recording["top_logprobs"].reshape(3, 5, 2)[0, 2:].tolist() == [[-5, -6], [1, 1], [1, 1]]
    assert recording["token_logprobs"][2].tolist() == [-1, -2, 1, 1, 1]
    assert recording["answer_tokens"].reshape(3, 2, 5)[2].tolist() == [[-1, -2, 9, 9, 9], [-3, -4, 9, 9, 9]]
    assert read_recording(file, free=free).shape("embedding") == (2, 3)


def test_models_whose_names_make_the_same_file_name_have_files_of_their_own(tmp_path: Path) -> None:
    sink = SampleSink({}, RecordConfig(to=tmp_path))
    for name in ("a/b", "a_b", "a:b"):
        reservoir = sink._sample(name).reservoir
        reservoir.add(reservoir.draw(), row(1))
    sink.close()
    assert len(list(tmp_path.iterdir())) == 3
    assert all(read_recording(tmp_path, name).rows == 1 for name in ("a/b", "a_b", "a:b"))


def test_a_sample_of_sessions_calibrates_a_promise_for_sessions(tmp_path: Path) -> None:
    bundle = in_sessions(tmp_path / "sessions.tocsin")
    with model_server() as (model, address):
        model.answers = {b"0": inference(SAFE, slice(0, 1))}
        folder = tmp_path / "record"
        with running(serve(address, bundle, folder, sample="sessions", rows=7)) as relay:
            ask(relay.target, [b"0"] * 12)  # 4 of each of three sessions
    counts = np.unique(read_recording(folder).column("session"), return_counts=True)[1]
    assert counts.tolist() == [4]


def test_a_sample_calibrates_the_bundle_that_it_was_judged_by(bundle: Path, tmp_path: Path) -> None:
    with model_server() as (model, address):
        model.answers = {b"%d" % at: inference(SAFE, slice(at, at + 1)) for at in range(200)}
        with running(serve(address, bundle, tmp_path / "record")) as relay:
            ask(relay.target, [b"%d" % at for at in range(200)])
    scorer = Bundle.read(bundle).scorer
    scores = scorer(read_recording(tmp_path / "record", "digits").load())
    np.testing.assert_array_equal(scores, scorer(SAFE.take(slice(0, 200))))
    assert calibrate(scores, {"warning": 0.1}, detectors=scorer.detectors).alphas == {"warning": 0.1}


def test_a_folder_that_cannot_be_made_is_told_before_serving(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config = serve("127.0.0.1:1", bundle, tmp_path / "file" / "record")
    assert any("record.to" in problem for problem in file_problems(config))
    with pytest.raises(RecordingError, match="cannot be made"):
        SampleSink({}, config.record or RecordConfig(to=tmp_path))


def test_a_bundle_of_one_signal_keeps_that_alone(tmp_path: Path) -> None:
    scorer = compile([Entropy()], fit_on=SAFE)
    path = tmp_path / "entropy.tocsin"
    Bundle(scorer, calibrate(scorer(SAFE), {"warning": 0.1}, detectors=scorer.detectors), "digits").write(path)
    with model_server() as (model, address):
        model.answers = {b"0": inference(SAFE, slice(0, 1))}
        assert oip.Response.FromString(model.answers[b"0"]).outputs[1].name == "embedding"
        with running(serve(address, path, tmp_path / "record")) as relay:
            ask(relay.target, [b"0"])
    assert read_recording(tmp_path / "record").names() == ("probs",)
