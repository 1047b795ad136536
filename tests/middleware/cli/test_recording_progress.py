"""A recording says how much it keeps, and why it keeps nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import INFER, TRIES_AGAIN_SOON, free_port, inference

from tocsin_detectors import Observations

ROWS = Observations({"probs": np.full((1, 3), 1 / 3, np.float32)})
OTHERS = Observations({"others": np.zeros((1, 3), np.float32)})
PROGRAM = (
    "import tocsin.recording.progress as p; p.EARLY = (); p.EVERY = 0.2\n"
    "import sys; from tocsin.cli import main; sys.argv[0] = 'tocsin'; main()"
)


@contextmanager
def recording(folder: Path, output: str, rows: int = 100) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`tocsin record` before a model server that answers `ok`, and the address to call."""
    with model_server() as (model, address):
        model.answers = {b"ok": inference(ROWS, slice(0, 1)), b"bare": inference(OTHERS, slice(0, 1))}
        target = f"127.0.0.1:{free_port()}"
        (folder / "tocsin.yaml").write_text(
            f"listen: {target}\nupstream: {address}\nmetrics: null\nadmin: null\n"
            f"models: {{digits: {{signals: {{probs: response.outputs.{output}}}}}}}\n"
        )
        command = [
            sys.executable,
            "-c",
            PROGRAM,
            "record",
            "-c",
            str(folder / "tocsin.yaml"),
            "-o",
            str(folder / "safe"),
        ]
        with subprocess.Popen([*command, "--rows", str(rows)], stderr=subprocess.PIPE, text=True) as process:
            try:
                yield process, target
            finally:
                process.terminate()


def until(process: subprocess.Popen[str], words: str) -> str:
    """The first line of the log that holds these words."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if words in line:
            return line
    raise AssertionError(f"{words!r} is not in the log: {''.join(lines)}")


def test_a_signal_that_responses_lack_is_named(tmp_path: Path) -> None:
    with (
        recording(tmp_path, "nothing") as (process, target),
        grpc.insecure_channel(target, TRIES_AGAIN_SOON) as channel,
    ):
        channel.unary_unary(INFER)(b"ok", timeout=60, wait_for_ready=True)
        line = until(process, "left out")
        assert "0 of 100 responses recorded; left out: 1 of digits: missing_signal" in line and "WARNING" in line


def test_what_was_left_out_is_told_at_the_end_too(tmp_path: Path) -> None:
    with (
        recording(tmp_path, "probs", rows=1) as (process, target),
        grpc.insecure_channel(target, TRIES_AGAIN_SOON) as channel,
    ):
        for request in (b"bare", b"ok"):
            channel.unary_unary(INFER)(request, timeout=60, wait_for_ready=True)
        until(process, "1 of 1 responses recorded")  # the last report while it runs
        process.send_signal(signal.SIGINT)
        assert "left out: 1 of digits: missing_signal" in until(process, "left out")


def test_calls_of_other_methods_are_told_apart(tmp_path: Path) -> None:
    with recording(tmp_path, "probs") as (process, target), grpc.insecure_channel(target, TRIES_AGAIN_SOON) as channel:
        assert "no call of" in until(process, "responses recorded")
        with pytest.raises(grpc.RpcError):
            channel.unary_unary("/some.Other/Method")(b"", timeout=60, wait_for_ready=True)
        assert f"no call of {INFER}" in until(process, "1 calls of other methods passed")


def test_rows_are_counted_while_it_runs(tmp_path: Path) -> None:
    with recording(tmp_path, "probs") as (process, target), grpc.insecure_channel(target, TRIES_AGAIN_SOON) as channel:
        for _ in range(3):
            channel.unary_unary(INFER)(b"ok", timeout=60, wait_for_ready=True)
        assert "WARNING" not in until(process, "3 of 100 responses recorded")
