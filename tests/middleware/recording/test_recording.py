"""Claims about recordings: what is kept, when it survives, and which rows are for what."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent import futures
from decimal import Decimal
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import INFER, TRIES_AGAIN_SOON, free_port, inference, running, safe_traffic, settings
from smg_grpc_proto.generated import vllm_engine_pb2 as vllm

from tocsin.errors import RecordingError
from tocsin.protocols import oip
from tocsin.recording.division import Division, calibration_rows, fitting_rows, unseen_rows
from tocsin.recording.reading import read_recording
from tocsin.recording.recorder import Recorder
from tocsin_detectors import compile
from tocsin_detectors.free_length import FreeLength
from tocsin_detectors.registry import parse

SAFE = safe_traffic(30, seed=8)
VLLM_LOGPROBS = "response.chunk.output_logprobs.token_logprobs | response.complete.output_logprobs.token_logprobs"
ANSWERS = {b"%d" % row: inference(SAFE, slice(row, row + 1)) for row in range(30)}
ANSWERS[b"batch"] = inference(SAFE, slice(0, 6))


def recorded(folder: Path, requests: list[bytes], rows: int = 1000) -> Recorder:
    with model_server() as (model, address):
        model.answers = ANSWERS
        config = settings(address, Path("not-made-yet.tocsin"), mode="observe")
        recorder = Recorder.open(config)
        recorder.start(folder, rows)
        with running(recorder.guard.config, recorder.guard) as relay, grpc.insecure_channel(relay.target) as channel:
            for number, request in enumerate(requests):
                metadata = (("x-session", f"s{number % 3}"),)
                assert channel.unary_unary(INFER)(request, metadata=metadata) == ANSWERS[request]
        recorder.close()
    return recorder


def test_signals_are_kept_row_by_row_with_their_keys(tmp_path: Path) -> None:
    recorder = recorded(tmp_path, [b"%d" % row for row in range(30)] + [b"batch"])
    assert (recorder.rows, recorder.dropped) == (36, 0)
    recording = read_recording(tmp_path)
    for name in ("probs", "embedding"):
        np.testing.assert_array_equal(recording.load()[name], np.vstack([SAFE[name], SAFE[name][:6]]))
    table = pq.read_table(recording.files[0].path)
    assert table.column("session").to_pylist()[:4] == ["s0", "s1", "s2", "s0"]
    assert set(table.column("model").to_pylist()) == {"digits"}
    assert set(table.column("version").to_pylist()) == {"v1"}
    assert {file.path.stat().st_mode & 0o077 for file in recording.files} == {
        0
    }  # others may not read what was answered


@pytest.mark.parametrize("judge", ["message", "end"])
@pytest.mark.parametrize("streamed", [True, False])
def test_signals_that_callers_did_not_ask_for_are_recorded_and_taken_out(
    tmp_path: Path, judge: str, streamed: bool
) -> None:
    def generate(request: vllm.GenerateRequest, context: Any) -> Iterator[vllm.GenerateResponse]:
        assert request.sampling_params.logprobs == 2  # whoever asked
        logprobs = vllm.OutputLogProbs(token_logprobs=[-0.5], token_ids=[7])
        for _ in range(3 if request.stream else 0):
            yield vllm.GenerateResponse(chunk=vllm.GenerateStreamChunk(token_ids=[7], output_logprobs=logprobs))
        complete = vllm.GenerateComplete(output_ids=[7, 7, 7], finish_reason="stop")
        if not request.stream:
            complete.output_logprobs.token_logprobs.extend([-0.5] * 3)
        yield vllm.GenerateResponse(complete=complete)

    method = grpc.unary_stream_rpc_method_handler(
        generate,
        request_deserializer=vllm.GenerateRequest.FromString,
        response_serializer=vllm.GenerateResponse.SerializeToString,
    )
    server = grpc.server(futures.ThreadPoolExecutor(2))
    handler = grpc.method_handlers_generic_handler("vllm.grpc.engine.VllmEngine", {"Generate": method})
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    model = {"protocol": "vllm", "ask": 2, "judge": judge, "signals": {"token_logprobs": VLLM_LOGPROBS}}
    recorder = Recorder.open(settings(port, None, mode="observe", models={"m": model}))
    recorder.start(tmp_path, 1000)
    try:
        with running(recorder.guard.config, recorder.guard) as relay, grpc.insecure_channel(relay.target) as channel:
            ask = channel.unary_stream(
                "/vllm.grpc.engine.VllmEngine/Generate",
                request_serializer=vllm.GenerateRequest.SerializeToString,
                response_deserializer=vllm.GenerateResponse.FromString,
            )
            came = list(ask(vllm.GenerateRequest(text="x", stream=streamed), timeout=60))
    finally:
        server.stop(0).wait()
    recorder.close()
    assert [list(m.chunk.token_ids) for m in came[:-1]] == [[7]] * (3 if streamed else 0)
    assert list(came[-1].complete.output_ids) == [7, 7, 7]
    assert not any(m.chunk.HasField("output_logprobs") or m.complete.HasField("output_logprobs") for m in came)
    assert recorder.rows == (3 if streamed and judge == "message" else 1)


def test_recording_is_bounded_and_traffic_goes_on(tmp_path: Path) -> None:
    recorder = recorded(tmp_path, [b"%d" % row for row in range(30)] + [b"batch"], rows=10)
    assert recorder.rows == 10
    assert read_recording(tmp_path).rows == 10


DRAW = np.random.default_rng(6)


@pytest.mark.parametrize("kind", ["list_view", "large_list_view", "decimal"])
def test_lists_of_every_kind_hold_the_same_numbers(tmp_path: Path, kind: str) -> None:
    rows = [[3, 1], [0, 9]]
    if kind == "decimal":
        column = pa.array([[Decimal(value) for value in row] for row in rows], pa.list_(pa.decimal128(5)))
    else:
        column = pa.array(rows, getattr(pa, kind)(pa.float64()))
    pq.write_table(pa.table({"signal.x": column}), tmp_path / "a.parquet")
    assert read_recording(tmp_path).load()["x"].tolist() == rows


@pytest.mark.parametrize(
    ("shapes", "batched", "rows"),
    [
        ({"probs": (10,), "embedding": (48,)}, None, {"probs": 10, "embedding": 48}),
        ({"probs": (1, 10), "embedding": (48,)}, None, {"probs": 10, "embedding": 48}),
        ({"probs": (1, 10), "embedding": (1, 48)}, None, {"probs": 10, "embedding": 48}),
        ({"embedding": (48,)}, None, {"embedding": 48}),
        ({"prediction": (3,)}, None, {"prediction": 1}),
        ({"mine": (6,)}, None, {}),
        ({"mine": (6,)}, False, {"mine": 6}),
        ({"mine": (6,)}, True, {"mine": 1}),
        ({"mine": (2, 3)}, False, {"mine": 6}),
        ({"mine": (2, 3), "embedding": (4,)}, {"mine": False}, {"mine": 6, "embedding": 4}),
        ({"mine": (1,)}, None, {"mine": 1}),
    ],
)
def test_outputs_without_a_batch_axis_are_one_response_a_call_or_an_error_that_says_what_to_set(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], batched: Any, rows: dict[str, int], caplog: Any
) -> None:
    signals = {name: f"response.outputs.{name}" for name in shapes}
    model = {"signals": signals} if batched is None else {"signals": signals, "batched": batched}
    recorder = Recorder.open(settings(1, None, models={"m": model}))
    recorder.start(tmp_path, 100)
    message = oip.Response(model_name="m")
    for name, shape in shapes.items():
        message.outputs.add(name=name, datatype="FP32", shape=shape)
        message.raw_output_contents.append(DRAW.random(shape).astype("<f4").tobytes())
    for _ in range(3):
        call = recorder.guard.call(INFER, {})
        assert call is not None and call.on_response_message(message.SerializeToString()) is call
        recorder.guard.judge([call])
    recorder.close()
    one_number = set(rows.values()) == {1} and len(shapes) == 1
    assert recorder.rows == (3 * int(np.prod(*shapes.values())) if one_number else 3 if rows else 0)
    if not rows:
        assert "models.m.batched" in caplog.text and "{mine: false}" in caplog.text
        return
    recording = read_recording(tmp_path)
    assert {name: recording.width(name) for name in recording.names()} == rows


def test_a_kill_loses_no_finished_segment_and_leaves_no_broken_file(tmp_path: Path) -> None:
    out = tmp_path / "safe"
    with model_server() as (model, address):
        model.answers = ANSWERS
        port = free_port()
        config = tmp_path / "tocsin.yaml"
        config.write_text(
            f"listen: 127.0.0.1:{port}\nupstream: {address}\nmetrics: null\nadmin: null\n"
            "models: {digits: {signals: {probs: response.outputs.probs}}}\n"
        )
        program = (
            "import tocsin.recording.recorder as r; r.SEGMENT_ROWS = 10\n"
            "import sys; from tocsin.cli import main; sys.argv[0] = 'tocsin'; main()"
        )
        command = [sys.executable, "-c", program, "record", "-c", str(config), "-o", str(out)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            with grpc.insecure_channel(f"127.0.0.1:{port}", TRIES_AGAIN_SOON) as channel:
                call = channel.unary_unary(INFER)
                for row in range(25):
                    call(b"%d" % row, timeout=60, wait_for_ready=True)
            for _ in range(100):
                if len(list(out.glob("*.parquet"))) == 2:
                    break
                time.sleep(0.05)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
    np.testing.assert_array_equal(read_recording(out).load()["probs"], SAFE["probs"][:20])


def parquet(path: Path, columns: dict[str, Any]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_foreign_parquet_files_are_read_too(tmp_path: Path) -> None:
    path = parquet(
        tmp_path / "x.parquet", {"signal.a": [[1.0, 2.0], [3.0, 4.0]], "signal.b": [7, 8], "other": ["x", "y"]}
    )
    read = read_recording(path).load()
    assert read["a"].tolist() == [[1, 2], [3, 4]]
    assert read["b"].tolist() == [[7], [8]]
    assert read_recording(path, signals=["b"], optional=["a", "z"]).names() == ("b", "a")


@pytest.mark.parametrize(
    ("columns", "arguments", "message"),
    [
        ({"signal.a": [[1.0], [2.0, 3.0]]}, {}, "lists of different lengths"),
        ({"signal.a": ["x", "y"]}, {}, "signal 'a' is string, not numbers"),
        ({"signal.a": [1.0, None]}, {}, "signal 'a' is empty in 1 rows"),
        ({"signal.a": [1.0]}, {"signals": ["b"]}, r"has no signal 'b' \(it has: a\)"),
        ({"x": [1.0]}, {}, "signals are columns named signal.NAME"),
        ({"signal.a": [1.0, 2.0], "model": ["m", "n"]}, {}, r"several models \(m, n\); choose one with --model"),
        ({"signal.a": [1.0], "model": ["m"]}, {"model": "z"}, "holds no responses of model 'z'"),
    ],
)
def test_recordings_that_cannot_be_used_are_refused(
    tmp_path: Path, columns: dict[str, Any], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecordingError, match=message):
        read_recording(parquet(tmp_path / "x.parquet", columns), **arguments)


def test_files_that_disagree_or_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="there is no recording"):
        read_recording(tmp_path)
    (tmp_path / "a.parquet").write_bytes(b"hello")
    with pytest.raises(RecordingError, match="is no Parquet file"):
        read_recording(tmp_path)
    parquet(tmp_path / "a.parquet", {"signal.a": [[1.0]]})
    parquet(tmp_path / "b.parquet", {"signal.a": [[1.0, 2.0]]})
    with pytest.raises(RecordingError, match=r"signal 'a' has the shape \[2\], but \[1\] in a.parquet"):
        read_recording(tmp_path)


def test_calibration_never_gets_a_row_that_was_fitted_on(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", {"signal.a": np.arange(100.0)})
    first = read_recording(tmp_path)
    fitted = {"share": 0.4, "seed": 3, "files": {file.sha256: file.path.name for file in first.files}}
    for_fitting = first.where(lambda file: fitting_rows(file, Division(0.4, 3))).load()["a"][:, 0]
    parquet(tmp_path / "b.parquet", {"signal.a": np.arange(100.0, 150.0)})
    recording = read_recording(tmp_path)
    for_calibration = recording.where(lambda file: calibration_rows(file, fitted, Division(1.0, 0))).load()["a"][:, 0]
    assert len(for_fitting) == 40 and len(for_calibration) == 110
    assert sorted([*for_fitting, *for_calibration]) == list(range(150))


def test_evaluation_never_gets_a_row_that_was_fitted_or_calibrated_on(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", {"signal.a": np.arange(200.0)})
    first = read_recording(tmp_path)
    files = {file.sha256: file.path.name for file in first.files}
    fitted = {"share": 0.4, "seed": 3, "files": files}
    calibrated = {"share": 0.5, "seed": 4, "files": files}
    for_fitting = first.where(lambda file: fitting_rows(file, Division(0.4, 3))).load()["a"][:, 0]
    for_calibration = first.where(lambda file: calibration_rows(file, fitted, Division(0.5, 4))).load()["a"][:, 0]
    provenance = {"fitted": fitted, "calibrated": calibrated}
    for_evaluation = first.where(lambda file: unseen_rows(file, provenance)).load()["a"][:, 0]
    assert (len(for_fitting), len(for_calibration), len(for_evaluation)) == (80, 60, 60)
    assert sorted([*for_fitting, *for_calibration, *for_evaluation]) == list(range(200))


def test_sessions_stay_whole_and_on_one_side_in_every_file(tmp_path: Path) -> None:
    for number in range(2):  # each session goes on in the second file
        parquet(
            tmp_path / f"{number}.parquet",
            {"signal.a": np.arange(300.0), "session": [f"s{r % 50}" for r in range(300)]},
        )
    recording = read_recording(tmp_path)
    files = {file.sha256: file.path.name for file in recording.files}
    by = Division(0.4, 3, "session")
    fitted = {**by.facts(), "files": files}
    parts = [
        recording.where(lambda file: fitting_rows(file, by)),
        recording.where(lambda file: calibration_rows(file, fitted, Division(0.5, 4, "session"))),
        recording.where(
            lambda file: unseen_rows(
                file, {"fitted": fitted, "calibrated": {**Division(0.5, 4, "session").facts(), "files": files}}
            )
        ),
    ]
    names = [set(part.column("session")) for part in parts]
    assert sum(part.rows for part in parts) == 600 and sum(map(len, names)) == 50
    assert all(part.rows == 12 * len(sessions) for part, sessions in zip(parts, names, strict=True)) and all(names)
    with pytest.raises(RecordingError, match="so its sessions have holes"):
        recording.where(
            lambda file: calibration_rows(file, {**Division(0.4, 3).facts(), "files": files}, Division(1, 0, "session"))
        )


def test_columns_come_in_the_order_of_the_rows(tmp_path: Path) -> None:
    for name, start in (("a", 0), ("b", 5)):
        values = np.arange(start, start + 5.0)
        parquet(
            tmp_path / f"{name}.parquet", {"signal.a": values, "label": values > 6, "kind": [f"k{v:g}" for v in values]}
        )
    odd = read_recording(tmp_path).take(np.array([1, 3, 5, 9]))
    assert odd.column("kind").tolist() == [f"k{v:g}" for v in odd.load()["a"][:, 0]] == ["k1", "k3", "k5", "k9"]
    assert odd.column("label").tolist() == [False, False, False, True] and odd.columns() == {"label", "kind"}
    with pytest.raises(RecordingError, match=r"has no column 'mood' \(besides signals it has: label, kind\)"):
        odd.column("mood")


def test_a_recording_is_read_in_batches_as_it_would_be_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    for number, part in enumerate(np.split(rows, [200])):
        columns = {"model": ["m", "n"] * (len(part) // 2), "signal.a": list(part)}
        pq.write_table(pa.table(columns), tmp_path / f"{number}.parquet", row_group_size=60)
    monkeypatch.setattr("tocsin.recording.parquet_files.BATCH", 37)
    recording = read_recording(tmp_path, "n")
    np.testing.assert_array_equal(recording.load()["a"], rows[1::2])
    shuffled = [np.vstack([part["a"] for part in recording.batches(np.random.default_rng(1))]) for _ in range(2)]
    np.testing.assert_array_equal(shuffled[0], shuffled[1])
    assert not np.array_equal(shuffled[0], rows[1::2])
    np.testing.assert_array_equal(np.sort(shuffled[0], axis=0), np.sort(rows[1::2], axis=0))
    np.testing.assert_array_equal(recording.sample(50, seed=3)["a"], recording.load().sample(50, seed=3)["a"])


def test_detectors_learn_the_same_from_disk_as_from_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    safe = safe_traffic(400, seed=1)
    columns = {f"signal.{name}": list(safe[name]) for name in safe}
    pq.write_table(pa.table(columns), tmp_path / "safe.parquet")
    monkeypatch.setattr("tocsin.recording.parquet_files.BATCH", 64)
    names = "kl_matching mahalanobis pca_residual knn"
    recording = read_recording(tmp_path)
    memory, disk = (compile([parse(name) for name in names.split()], data) for data in (recording.load(), recording))
    np.testing.assert_allclose(disk(safe), memory(safe), rtol=1e-4, atol=1e-5)
    learnt = [compile([parse("rnd,epochs=20")], recording)(safe) for _ in range(2)]
    np.testing.assert_array_equal(*learnt)
    assert np.median(compile([parse("rnd,epochs=1")], recording)(safe)) > 1.5 * np.median(learnt[0])


def test_masked_alternatives_break_no_row(tmp_path: Path) -> None:
    tops = [[0.0, -np.inf], [-0.7, -0.7], [np.nan, -1.0], [np.inf, -1.0]]
    parquet(tmp_path / "a.parquet", {"signal.top_logprobs": tops, "signal.x": [[1.0], [-np.inf], [1.0], [1.0]]})
    recording = read_recording(tmp_path, signals=["top_logprobs"])
    assert (recording.finite_rows({"top_logprobs"}).rows, recording.finite_rows().rows) == (2, 1)
    assert read_recording(tmp_path).finite_rows({"top_logprobs"}).rows == 1, "elsewhere it is broken"


def test_broken_rows_are_left_out_on_demand(tmp_path: Path) -> None:
    values = [[1.0, 2.0], [float("nan"), 1.0], [3.0, float("inf")], [5.0, 6.0]]
    recording = read_recording(parquet(tmp_path / "x.parquet", {"signal.a": values}))
    assert recording.finite_rows().load()["a"].tolist() == [[1, 2], [5, 6]]


def test_shapes_and_free_lengths_survive(tmp_path: Path) -> None:
    nested = [[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0]]]
    path = parquet(tmp_path / "x.parquet", {"signal.a": nested, "signal.b": [[1.0], [2.0, 3.0]]})
    free = {"a": FreeLength(-1), "b": FreeLength(9)}
    read = read_recording(path, free=free)
    assert read.shape("a") == (2, 2) and read.load()["a"].tolist() == [[1, 2, 3, 4], [5, 6, -1, -1]]
    assert read.load()["b"].tolist() == [[1, 9], [2, 3]]
    with pytest.raises(RecordingError, match="lists of different lengths"):
        read_recording(path, signals=["a"], free={"a": FreeLength(-1, axis=1)})


def test_files_with_different_signals_are_told_with_what_to_do(tmp_path: Path) -> None:
    """Two methods of one model that answer with different signals are recorded, and cannot be fitted together."""
    for number, name in enumerate(("signal.probs", "signal.token_logprobs")):
        pq.write_table(pa.table({name: pa.array([[0.5, 0.5]] * 4)}), tmp_path / f"{number}.parquet")
    with pytest.raises(RecordingError, match=r"which other files .* a protocol and a model each"):
        read_recording(tmp_path)
