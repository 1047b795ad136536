"""Tables of a user's own become recordings, and mistakes are found before anything is fitted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from tests.command import tocsin

from tocsin.recording.reading import read_recording

PROBS = np.random.default_rng(0).dirichlet([1, 1, 1], 300).astype(np.float32)
EMBEDDING = np.random.default_rng(1).normal(size=(300, 2, 4)).astype(np.float32)
TENANTS = [f"t{row % 3}" for row in range(300)]


def table(path: Path) -> Path:
    """The same values in each kind of file."""
    flat = EMBEDDING.reshape(300, -1)
    match path.suffix:
        case ".npz":
            np.savez(path, probs=PROBS, emb=EMBEDDING, tenant=np.array(TENANTS))
        case ".parquet":
            columns = {"probs": PROBS.tolist(), "emb": EMBEDDING.tolist(), "tenant": TENANTS}
            pq.write_table(pa.table(columns), path)
        case ".csv":
            columns = {f"p{at}": PROBS[:, at] for at in range(3)} | {f"e_{at}": flat[:, at] for at in range(8)}
            pyarrow.csv.write_csv(pa.table({**columns, "tenant": TENANTS}), path)
    return path


@pytest.mark.parametrize("suffix", [".npz", ".parquet", ".csv"])
def test_each_kind_of_table_becomes_the_same_recording(tmp_path: Path, suffix: str) -> None:
    source, out = table(tmp_path / f"own{suffix}"), tmp_path / "safe.parquet"
    probs, embedding = ("p0,p1,p2", "e_*") if suffix == ".csv" else ("probs", "emb")
    said = tocsin("convert", source, "-o", out, "--signal", f"probs={probs}", "--signal", f"embedding={embedding}",
                  "--group", "tenant")  # fmt: skip
    assert "300 responses, signals probs, embedding" in said.stderr
    recording = read_recording(out)
    read = recording.load()
    np.testing.assert_allclose(read["probs"], PROBS, rtol=1e-6)
    np.testing.assert_allclose(read["embedding"].reshape(300, -1), EMBEDDING.reshape(300, -1), rtol=1e-6)
    assert recording.column("group").tolist() == TENANTS


def test_what_was_converted_is_fitted_and_calibrated_by_group(tmp_path: Path) -> None:
    out, bundle = tmp_path / "safe.parquet", tmp_path / "own.tocsin"
    tocsin("convert", table(tmp_path / "own.npz"), "-o", out, "--signal", "probs=probs", "--group", "tenant")
    tocsin("fit", out, "-o", bundle, "-d", "entropy")
    assert "of safe responses" in tocsin("calibrate", bundle, out, "--groups", "group").stdout


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["own.csv", "--signal", "probs=q*"], "own.csv: has no column 'q*' (it has: p0, p1, p2, e_0"),
        (["own.csv", "--signal", "probs=tenant"], "own.csv: column 'tenant' is string, not numbers"),
        (["own.csv", "--signal", "probs"], "--signal probs: write NAME=COLUMN"),
        (["own.csv", "--signal", "a=p0", "--signal", "a=p1"], "--signal a=p1: 'a' is named twice"),
        (["own.csv", "--signal", "a=p0", "--session", "who"], "own.csv: has no column 'who'"),
        (["own.txt", "--signal", "a=p0"], "own.txt: what ends in '.txt' cannot be read; it must be .parquet, .csv"),
        (["none.npz", "--signal", "a=p0"], "none.npz: cannot be read: "),
        (["own.npz", "--signal", "a=tenant"], "own.npz: column 'tenant' is <U2 of shape [300], not numbers by row"),
    ],
)
def test_mistakes_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("own.csv", "own.npz"):
        table(Path(name))
    Path("own.txt").write_text("")
    assert problem in tocsin("convert", *arguments, "-o", "safe.parquet", code=2).stderr
    assert not Path("safe.parquet").exists()


def test_own_names_of_columns_lead_to_the_command_that_reads_them(tmp_path: Path) -> None:
    source = table(tmp_path / "own.parquet")
    said = tocsin("fit", source, "-o", tmp_path / "x.tocsin", "-d", "entropy", code=2).stderr
    assert "tocsin convert reads tables whose columns have other names" in said


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (
            ["-o", "nowhere/x.tocsin", "-d", "entropy"],
            "nowhere/x.tocsin: cannot be written: there is no folder nowhere",
        ),
        (["-o", ".", "-d", "entropy"], ".: is a folder; name a file"),
        (["-o", "x.tocsin", "-d", "entropy", "-d", "entropy"], "the same detector appears twice"),
    ],
)
def test_nothing_is_fitted_for_what_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    tocsin("convert", table(tmp_path / "own.npz"), "-o", "safe.parquet", "--signal", "probs=probs")
    said = tocsin("fit", "safe.parquet", *arguments, code=2).stderr
    assert problem in said and "fitting" not in said


def test_a_level_that_alarms_at_most_responses_is_refused(tmp_path: Path) -> None:
    said = tocsin("calibrate", tmp_path / "x.tocsin", tmp_path, "--warning", "0.9", code=2).stderr
    assert "less than or equal to 0.5" in said
