"""Claims about the commands that need no bundle: label sets, weak sources, plans."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tests.command import tocsin
from typer.testing import CliRunner

from tocsin.cli.main import app


def test_label_sets_are_written_nearest_first_and_hold_the_truth(tmp_path: Path) -> None:
    random = np.random.default_rng(8)
    paths = []
    for name in ("labelled", "new"):
        truth = random.random((600, 4)) < 0.4
        scores = np.clip(np.where(truth, 0.75, 0.2) + 0.2 * random.normal(size=truth.shape), 0, 1)
        columns: dict[str, Any] = {f"l{at}": truth[:, at].tolist() for at in range(4)}
        columns["signal.probs"] = pa.FixedSizeListArray.from_arrays(pa.array(scores.ravel()), 4)
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
        paths.append(tmp_path / f"{name}.parquet")
    options = [part for at in range(4) for part in ("--label", f"l{at}")]
    output = tocsin("sets", *paths, *options, "-o", tmp_path / "sets.csv", "--most", "16").stdout
    assert "for at least 90% of responses like the 600 labelled ones" in output
    with (tmp_path / "sets.csv").open() as file:
        sets = [(int(row["row"]), row["labels"]) for row in csv.DictReader(file)]
    true = [(row, " ".join(f"l{at}" for at in range(4) if labels[at])) for row, labels in enumerate(truth)]
    assert 0.84 < np.mean([pair in set(sets) for pair in true]) < 0.96


def test_weak_sources_are_harmonised_from_columns(tmp_path: Path) -> None:
    random = np.random.default_rng(9)
    truth = random.integers(0, 3, 800)
    shown = np.eye(3)[truth] + 0.4 * random.normal(size=(800, 3))

    def says(accuracy: float) -> list[str]:
        return [f"c{t if random.random() < accuracy else random.integers(0, 3)}" for t in truth]

    answer = says(0.8)
    weak = {f"w{at}": [word if random.random() < 0.8 else None for word in says(0.7)] for at in range(3)}
    columns = {"answer": answer, **weak, "signal.embedding": list(shown)}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    options = [part for name in weak for part in ("--source", name)]
    output = tocsin(
        "harmonise", tmp_path / "x.parquet", "--answer", "answer", *options, "-o", tmp_path / "r.csv"
    ).stdout
    assert "risk of 800 answers" in output
    with (tmp_path / "r.csv").open() as file:
        risk = np.array([float(row["risk"]) for row in csv.DictReader(file)])
    wrong = np.array([word != f"c{t}" for word, t in zip(answer, truth, strict=True)])
    assert risk[wrong].mean() > risk[~wrong].mean() + 0.3


def test_plans_are_told_in_words() -> None:
    base = ["plan", "retries", "--accuracy", "0.6", "--passes-right", "0.95", "--passes-wrong", "0.3"]
    endless = tocsin(*base, "--cost", "0.01").stdout
    assert "every further try up to 8 still helps" in endless and "at most 82.61% of what passes is right" in endless
    finite = tocsin(*base, "--cost", "0.01", "--correlation", "0.5", "--most", "16").stdout
    assert "ask at most" in finite and "each further one serves worse answers" in finite
    assert "ask never" in tocsin(*base, "--loss", "9").stdout
    stages = ["--stage", "0.6,0.01", "--stage", "0.9,0.3"]
    row = tocsin("plan", "cascade", *stages, "--passes-right", "0.9", "--passes-wrong", "0.1").stdout
    assert "ask the first 2, then abstain" in row


def test_a_plan_says_what_a_calibration_takes_and_finds() -> None:
    options = ["plan", "calibration", "--alpha", "0.05", "--traffic", "86400/day", "--rows", "2400"]
    done = CliRunner().invoke(app, options)
    assert done.exit_code == 0, done.output
    assert "39 responses promise it on average, 88 with confidence 95%" in done.output
    facts = json.loads(CliRunner().invoke(app, [*options, "--json"]).output)
    (size,) = facts["alphas"]["0.05"]["sizes"]
    assert (size["carrying"], size["confidence"]) == (1600, 0.95) and 0.04 < size["expected_rate"] < 0.05
    medians = {delay["excess"]: delay["median"] for delay in size["delays"]}
    assert medians[5.0] < medians[3.0] < medians[2.0]
    assert f"{medians[3.0]:,} (" in done.output and f", {medians[5.0]} s" in done.output
    for wrong in (["--rows", "30"], ["--traffic", "many"], ["--delta", "2"], ["--traffic", "1.2.3/day"]):
        assert CliRunner().invoke(app, [*options, *wrong]).exception, wrong
