"""Claims about `tocsin promise` and `tocsin watch`: anybody's score gets a threshold that keeps what it promises."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import betabinom, chi2
from tests.command import tocsin

from tocsin.offline.score_promise import calibrated, divide, outcome_at, scorer_of, thresholds_of
from tocsin.recording.json_rows import rows_of
from tocsin.recording.score_table import ScoreTable, read_scores
from tocsin.replay.following import MAX_LINE, lines_of
from tocsin_calibration import Bundle


def scores(rows: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).beta(2, 8, rows) + shift


def written(path: Path, rows: int = 1_500, bad: int = 60, decimals: int = 6) -> Path:
    """Safe rows, and rows that should alarm between them; sessions of three, two groups."""
    values = np.concatenate([scores(rows, 1), scores(bad, 2, 0.4)])
    order = np.random.default_rng(3).permutation(rows + bad)
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["risk", "wrong", "user", "chat"])
        for place, row in enumerate(order):
            table.writerow([f"{values[row]:.{decimals}f}", int(row >= rows), "ab"[place % 2], place // 3])
    return path


def log_of(path: Path, values: Any, *more: str, field: str = "risk") -> Path:
    path.write_text("".join([json.dumps({field: float(value)}) + "\n" for value in values] + [f"{m}\n" for m in more]))
    return path


def table_of(values: np.ndarray, labels: np.ndarray | None = None, sessions: list[str] | None = None) -> ScoreTable:
    return ScoreTable(values.astype(np.float32), labels, sessions, None, {})


@pytest.mark.long
def test_false_alarms_obey_the_law_that_is_printed() -> None:
    """Over many tables: the count of false alarms on fresh rows is Beta-Binomial, by a chi-square of ten cells."""
    counts, laws = [], set()
    for seed in range(400):
        table = table_of(scores(700, 10_000 + seed))
        parts = divide(table, 0.6, seed)
        scorer = scorer_of("risk", table, lower_is_worse=False)
        promise = calibrated(
            scorer, table, parts.calibration, {"critical": 0.05}, confidence=None, on_average=True, seed=seed
        )
        outcome = outcome_at(
            table, parts, thresholds_of(promise, lower_is_worse=False)["critical"], lower_is_worse=False
        )
        counts.append(outcome.alarms)
        law = promise.laws["critical"]
        laws.add((law.n, law.k, outcome.n))
    ((n, k, m),) = laws
    law = betabinom(m, n + 1 - k, k)
    edges = np.unique(law.ppf(np.linspace(0.1, 0.9, 9)))
    expected = np.diff(np.concatenate([[0.0], law.cdf(edges), [1.0]])) * len(counts)
    observed = np.histogram(counts, np.concatenate([[-0.5], edges + 0.5, [m + 0.5]]))[0]
    assert chi2.sf(((observed - expected) ** 2 / expected).sum(), len(observed) - 1) > 1e-4


@pytest.mark.parametrize("decimals", [6, 2])
@pytest.mark.parametrize("lower", [False, True])
def test_the_threshold_that_is_printed_is_the_one_that_alarms(decimals: int, lower: bool) -> None:
    """Also where scores tie, on either side: what lies beyond it, and nothing else, alarms."""
    values = np.round(scores(900, 5), decimals) * (-1 if lower else 1)
    table = table_of(values)
    scorer = scorer_of("risk", table, lower_is_worse=lower)
    alphas = {"warning": 0.1, "critical": 0.02}
    promise = calibrated(scorer, table, np.arange(600), alphas, confidence=None, on_average=True, seed=0)
    judged = promise.judge(scorer.run({"risk": table.scores[:, None]}))
    for name, threshold in thresholds_of(promise, lower_is_worse=lower).items():
        limit = np.float32(threshold)
        beyond = table.scores < limit if lower else table.scores > limit
        alarmed = [s is not None and promise.alphas[s] <= promise.alphas[name] for s in judged.severities]
        assert beyond.tolist() == alarmed and 0 < sum(alarmed) < 200


def test_a_session_with_a_bad_row_is_bad_and_none_is_on_two_sides() -> None:
    labels = np.zeros(300, bool)
    labels[[4, 5, 100]] = True
    table = table_of(scores(300, 1), labels, [f"s{row // 3}" for row in range(299)] + [""])
    parts = divide(table, 0.5, 7)
    sides = [{table.sessions[row] for row in rows} for rows in parts if table.sessions is not None]
    assert sides[2] == {"s1", "s33"} and len(parts.bad) == 6
    assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
    assert sum(map(len, parts)) == 300


@pytest.mark.long
def test_a_table_becomes_a_bundle_with_its_promise_its_check_and_a_comparison(tmp_path: Path) -> None:
    table, out = written(tmp_path / "scores.csv"), tmp_path / "risk.tocsin"
    said = tocsin(
        "promise", table, "--score", "risk", "--label", "wrong", "--threshold", "0.5", "--alpha", "0.05", "-o", out,
        "--json", tmp_path / "facts.json", "--on-average",
    ).stdout  # fmt: skip
    bundle = Bundle.read(out)
    promise, facts = bundle.require_promise(), json.loads((tmp_path / "facts.json").read_text())
    assert list(bundle.scorer.signals) == ["risk"] and list(promise.alphas) == ["critical"]
    law = promise.laws["critical"]
    assert f"Beta({law.n + 1 - law.k}, {law.k})" in said and f"risk is above {facts['limits']['critical']:.6g}" in said
    assert "promises, on 1,050 of 1,500 safe rows" in said and "in use" in said
    check = facts["evaluation"]["severities"]["critical"]
    assert facts["thresholds"]["promised, critical"]["alarms"] == check["alarms"] and check["n"] == 450
    assert facts["thresholds"]["in use"]["m"] == 60
    for kind in ("parquet", "jsonl", "otlp"):
        other = converted(table, tmp_path, kind)
        path = "guard.risk" if kind == "otlp" else "risk"
        tocsin(
            "promise", other, "--score", path, "--label", "wrong", "--alpha", "0.05", "--on-average",
            "-o", tmp_path / "other.tocsin", "--json", tmp_path / "other.json",
        )  # fmt: skip
        same = json.loads((tmp_path / "other.json").read_text())
        assert same["limits"] == facts["limits"] and same["evaluation"] == facts["evaluation"]
    grouped = tocsin(
        "promise", table, "--score", "risk", "--label", "wrong", "--group", "user", "--alpha", "0.05", "-o", out
    ).stdout
    assert "each on its own for: a, b" in grouped
    by_session = tocsin(
        "promise", table, "--score", "risk", "--label", "wrong", "--session", "chat", "--alpha", "0.1", "-o", out
    ).stdout
    assert "safe sessions" in by_session


def converted(table: Path, folder: Path, kind: str) -> Path:
    """The same table as another kind of file."""
    rows = list(csv.DictReader(table.open()))
    if kind == "parquet":
        columns = {"risk": [float(row["risk"]) for row in rows], "wrong": [row["wrong"] == "1" for row in rows]}
        pq.write_table(pa.table(columns), folder / "scores.parquet")
        return folder / "scores.parquet"
    lines = []
    for row in rows:
        if kind == "jsonl":
            lines.append({"risk": row["risk"], "wrong": row["wrong"] == "1"})  # as text, which logs have
            continue
        attributes = [
            {"key": "guard.risk", "value": {"doubleValue": float(row["risk"])}},
            {"key": "wrong", "value": {"boolValue": row["wrong"] == "1"}},
        ]
        other = {"name": "retrieval", "attributes": []}
        span = {"name": "guard", "attributes": attributes}
        lines.append({"resourceSpans": [{"resource": {}, "scopeSpans": [{"spans": [other, span]}]}]})
    path = folder / f"{kind}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize(
    ("content", "more", "message"),
    [
        ("risk\n1\nhigh\n", [], "row 2: 'risk' holds no number"),
        ("risk\n1\nnan\n", [], "row 2: 'risk' is missing"),
        ("risk\n1\n1e999\n", [], "row 2: 'risk' is NaN, infinite, or larger"),
        ("risk\n1\n2\n", [], "1 calibration responses cannot keep alpha"),
        ("risk,wrong\n1,0\n2,maybe\n", ["--label", "wrong"], "row 2: 'wrong' must say true or false"),
        ("score\n1\n", [], r"has no column 'risk' \(it has: score\)"),
        ("risk\n", [], "holds no scores"),
    ],
)
def test_a_table_that_cannot_serve_is_refused_in_words(
    tmp_path: Path, content: str, more: list[str], message: str
) -> None:
    path = tmp_path / "scores.csv"
    path.write_text(content)
    done = tocsin("promise", path, "--score", "risk", "-o", tmp_path / "x.tocsin", *more, code=2)
    assert re.search(message, done.stderr), done.stderr
    assert not (tmp_path / "x.tocsin").exists()


def test_rows_without_a_score_are_left_out_and_counted_where_that_is_wanted(tmp_path: Path) -> None:
    broken = ["{}", "[1]", "no json", '{"risk": true}', '{"risk": "1;2"}', '{"risk": NaN}', '{"risk": 1e400}']
    path = log_of(tmp_path / "log.jsonl", scores(50, 1), *broken)
    table = read_scores(path, "risk", label=None, session=None, group=None, leave_out_broken=True)
    assert len(table.scores) == 50
    assert table.left_out == {"missing_signal": 1, "undecodable": 2, "dtype": 2, "not_finite": 2}


@pytest.fixture(scope="module")
def promised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("promised")
    table = written(folder / "scores.csv", 3_000, 60)
    tocsin("promise", table, "--score", "risk", "--label", "wrong", "--warning", "0.05", "-o", folder / "risk.tocsin")
    return folder / "risk.tocsin"


def test_a_log_like_calibration_keeps_the_promise_and_another_breaks_it(promised: Path, tmp_path: Path) -> None:
    calm = tocsin("watch", log_of(tmp_path / "calm.jsonl", scores(1_500, 8)), promised).stdout
    assert "broken" not in calm and "drifted" not in calm and "1,500 rows\n" in calm
    mixed = np.concatenate([scores(300, 9), scores(300, 10, 0.25)])
    broken = '{"risk": "nan"}', "{", '{"other": 1}'
    changed = log_of(tmp_path / "changed.jsonl", mixed, *broken)
    done = tocsin("watch", changed, promised, "--json").stdout.splitlines()
    lines = [json.loads(line) for line in done]
    last = lines[-1]
    assert last["rows"] == 603 and last["unscored"] == {"not_finite": 1, "undecodable": 1, "missing_signal": 1}
    assert last["severities"]["warning"]["broken"] and last["drift"] > 4.7
    alarms = [facts["alarm"] for facts in lines if "alarm" in facts]
    assert len(alarms) == last["severities"]["warning"]["alarms"] and alarms[-1]["row"] > 300
    counted = sum(alarm["severity"] == "critical" for alarm in alarms)
    assert counted == last["severities"]["critical"]["alarms"]


def test_what_the_log_lacks_is_told_in_words(promised: Path, tmp_path: Path) -> None:
    log = log_of(tmp_path / "log.jsonl", scores(10, 1))
    assert "reads no score 'x'" in tocsin("watch", log, promised, "--score", "x=risk", code=2).stderr
    assert "cannot be read" in tocsin("watch", tmp_path / "none.jsonl", promised, code=2).stderr
    assert "between 0 and 1" in tocsin("watch", log, promised, "--delta", "0", code=2).stderr
    session = tmp_path / "session.tocsin"
    tocsin("promise", written(tmp_path / "s.csv"), "--score", "risk", "--label", "wrong", "--session", "chat",
           "--alpha", "0.1", "-o", session)  # fmt: skip
    assert "name their field with --session" in tocsin("watch", log, session, code=2).stderr
    rows = [json.dumps({"risk": float(v), "chat": at // 3}) for at, v in enumerate(scores(300, 4))]
    log.write_text("\n".join(rows))
    assert "of 100 sessions" in tocsin("watch", log, session, "--session", "chat").stdout


def test_a_followed_log_is_read_through_growth_rotation_and_truncation(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"1\n2\npart")
    steps = [
        lambda: path.open("ab").write(b"ial\n3\n"),
        lambda: (path.open("ab").write(b"4"), path.rename(tmp_path / "old"), path.write_bytes(b"5\n")),
        lambda: path.write_bytes(b""),
        lambda: path.open("ab").write(b"6\n\xff\n"),
        lambda: path.open("ab").write(b"x" * (MAX_LINE + 5) + b"\n7\n"),
    ]

    class Enough(Exception):
        pass

    def wait(seconds: float) -> None:
        if not steps:
            raise Enough
        steps.pop(0)()

    read: list[str] = []
    with pytest.raises(Enough):
        for lines in lines_of(path, follow=True, wait=wait):
            read += lines
    long = read.pop(-2)
    assert read == ["1", "2", "partial", "3", "4", "5", "6", "\ufffd", "7"]
    assert len(long) == MAX_LINE + 1


def test_attributes_of_spans_are_rows() -> None:
    spans = [
        {"name": "chat", "endTimeUnixNano": "5", "attributes": [{"key": "risk", "value": {"intValue": "3"}}]},
        {"name": "other", "attributes": [{"key": "x", "value": {"arrayValue": {}}}]},
    ]
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "s"}}]}
    line = json.dumps({"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": spans}]}]})
    (row,) = rows_of(line, ["risk"])
    assert (row["risk"], row["name"], row["service.name"]) == ("3", "chat", "s")


@pytest.mark.long
def test_watch_follows_a_log_until_it_is_interrupted(promised: Path, tmp_path: Path) -> None:
    log = log_of(tmp_path / "log.jsonl", scores(20, 1))
    command = [sys.executable, "-m", "tocsin", "watch", str(log), str(promised), "--follow", "--every", "10"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        patience = threading.Timer(120, process.kill)
        patience.start()
        for line in process.stdout:
            if line.startswith("20 rows"):
                break
        with log.open("a") as file:
            file.write('{"risk": 0.99}\n')
        for line in process.stdout:
            if line.startswith("row 21: critical, risk 0.99"):
                break
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        patience.cancel()
    assert "21 rows" in rest and process.returncode == 0


@pytest.mark.long
def test_the_bundle_is_served_with_the_same_threshold(promised: Path, tmp_path: Path) -> None:
    """What `promise` wrote judges a score in the metadata of calls."""
    from benchmarks.harness import ranker as acme

    import tocsin as package
    from tocsin.configuration.config import Config

    config = Config(
        upstream="127.0.0.1:1", metrics=None, admin=None, protocols=acme.protocol(tmp_path), mode="annotate",
        models={"digits": {"bundle": promised, "protocol": "ranker", "judge": "end",
                           "signals": {"risk": "metadata.x-risk"}}},
    )  # fmt: skip
    guard = package.Guard.open(config)
    limit = thresholds_of(Bundle.read(promised).require_promise(), lower_is_worse=False)["critical"]
    for value, severity in ((limit * 0.9999, "warning"), (limit * 1.0001, "critical")):
        call = guard.call(acme.PATHS["Rank"], {"x-risk": f"{value:.8f}"})
        assert call is not None
        call.on_response_message(acme.Response(model="digits").SerializeToString())
        guard.judge([call])
        assert call.verdict is not None and call.verdict.severity == severity


def test_without_a_file_to_write_it_says_what_a_bundle_would_promise(tmp_path: Path) -> None:
    table, out = written(tmp_path / "scores.csv"), tmp_path / "risk.tocsin"
    command = ("promise", table, "--score", "risk", "--label", "wrong", "--alpha", "0.05")
    shown, saved = tocsin(*command), tocsin(*command, "--out", out)
    assert shown.returncode == saved.returncode == 0, shown.stdout + shown.stderr
    assert "a bundle would promise, on 1,050 of 1,500 safe rows" in shown.stdout
    assert "nothing was written: name the bundle with --out" in shown.stdout
    promised = [line for line in saved.stdout.splitlines() if "threshold, critical" in line]
    assert promised and set(promised) <= set(shown.stdout.splitlines())
    assert {path.name for path in tmp_path.iterdir()} == {"scores.csv", "risk.tocsin"}
