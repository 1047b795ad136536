"""Claims about weights that processes share: the same scores, from memory that is not theirs alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tocsin_detectors import NearestNeighbours, Observations, Scorer, compile
from tocsin_detectors.sharing import FOLDER

MEASURE = """
import sys, numpy as np
from tocsin_detectors import Observations, Scorer
scorer = Scorer(open(sys.argv[1], "rb").read())
rows = np.random.default_rng(1).normal(size=(8, 256)).astype(np.float32)
scores = scorer(Observations({"embedding": rows}))
facts = dict(line.split(":") for line in open("/proc/self/smaps_rollup").read().splitlines()[1:])
print(facts["Private_Dirty"].split()[0], scores.tobytes().hex())
"""


@pytest.fixture(scope="module")
def graph() -> bytes:
    rows = np.random.default_rng(0).normal(size=(40_000, 256)).astype(np.float32)
    return compile([NearestNeighbours(bank=40_000)], fit_on=Observations({"embedding": rows})).graph


def measured(path: Path, folder: Path | None) -> tuple[int, str]:
    environment = {**os.environ, **({} if folder is None else {FOLDER: str(folder)})}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], env=environment, capture_output=True, text=True, check=True
    )
    private, scores = done.stdout.split()
    return int(private) // 1024, scores


@pytest.mark.long
def test_shared_weights_give_the_same_scores_and_take_no_memory_of_ones_own(graph: bytes, tmp_path: Path) -> None:
    (tmp_path / "graph.onnx").write_bytes(graph)
    (tmp_path / "shared").mkdir()
    megabytes = len(graph) >> 20
    assert megabytes > 30
    alone, scores = measured(tmp_path / "graph.onnx", None)
    _, same = measured(tmp_path / "graph.onnx", tmp_path / "shared")
    second, again = measured(tmp_path / "graph.onnx", tmp_path / "shared")
    assert scores == same == again
    assert len(list((tmp_path / "shared").iterdir())) == 1
    assert second < alone - 0.8 * megabytes


@pytest.mark.long
def test_where_nothing_can_be_written_each_has_its_own(graph: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, "/proc/nowhere")
    assert Scorer(graph).graph == graph


def test_small_graphs_are_not_worth_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    rows = Observations({"embedding": np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)})
    assert compile([NearestNeighbours()], fit_on=rows).graph
    assert list(tmp_path.iterdir()) == []
