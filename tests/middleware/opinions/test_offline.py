"""Claims about `tocsin opinions`, and about what a configuration of second opinions is refused for."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from benchmarks.harness.judge_server import Reply, judge_server
from tests.command import tocsin

from tocsin.configuration.config import Config


def by_length(prompt: str) -> Reply:
    answer = re.search(r"Answer: (.*)\n", prompt)
    assert answer is not None
    if answer[1] == "hm":
        return {"What": 1.0}
    share = min(0.9, len(answer[1]) / 100)
    return {"1": share, "5": 1 - share}


def written(folder: Path, url: str, **second: Any) -> Path:
    path = folder / "tocsin.yaml"
    settings = {
        "judge": {"url": url, "model": "judge"}, "opinions": {"rating": {"kind": "rating"}},
        "calls_per_minute": 1_000_000, **second,
    }  # fmt: skip
    path.write_text(yaml.safe_dump({"models": {"chat": {"protocol": "openai", "second_opinion": settings}}}))
    return path


REFUSED = 2
ROWS = [{"question": "q", "answer": "a" * n, "wrong": n % 2, "user": f"u{n}"} for n in range(1, 90)]


def test_opinions_of_recorded_answers_become_a_promise(tmp_path: Path) -> None:
    answers, scores = tmp_path / "answers.jsonl", tmp_path / "scores.csv"
    conversation = [{"role": "user", "content": "q"}]
    rows = [*ROWS, {"question": conversation, "answer": "b" * 10, "wrong": 0, "user": "u"}]
    answers.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {**ROWS[0], "answer": "hm"}]))
    with judge_server(by_length) as judge:
        done = tocsin("opinions", answers, "-c", written(tmp_path, judge.url), "-o", scores)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rating: 90 scores; lost: 1 unreadable" in done.stderr
    assert len(judge.prompts) == 91
    with scores.open() as file:
        table = list(csv.DictReader(file))
    assert [row["user"] for row in table] == [*(row["user"] for row in rows), "u1"]
    lengths = [len(str(row["answer"])) for row in rows]
    assert [float(row["rating"]) for row in table[:-1]] == pytest.approx([4 * n / 100 for n in lengths])
    assert table[-1]["rating"] == "" and "aaaa" not in scores.read_text()
    made_by = ("promise", scores, "--score", "rating", "--label", "wrong", "--alpha", "0.2", "--leave-out-broken")
    promise = tocsin(*made_by, "--out", tmp_path / "rating.tocsin")
    assert promise.returncode == 0, promise.stdout + promise.stderr


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_tables_of_answers_may_be_columns(tmp_path: Path, suffix: str) -> None:
    answers, scores = tmp_path / f"answers{suffix}", tmp_path / "scores.jsonl"
    table = pa.table({"prompt": ["q"] * 3, "text": ["a", "aa", "aaa"], "wrong": [0, 1, 0]})
    if suffix == ".parquet":
        pq.write_table(table, answers)
    else:
        answers.write_text("prompt,text,wrong\nq,a,0\nq,aa,1\nq,aaa,0\n")
    with judge_server(by_length) as judge:
        config = written(tmp_path, judge.url)
        done = tocsin("opinions", answers, "-c", config, "-o", scores, "--question", "prompt", "--answer", "text")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in scores.read_text().splitlines()]
    assert [row["wrong"] for row in rows] == [0, 1, 0]
    assert [row["rating"] for row in rows] == pytest.approx(list(np.array([1, 2, 3]) * 0.04))


def test_a_row_without_text_and_a_file_of_another_kind_are_refused(tmp_path: Path) -> None:
    config = written(tmp_path, "http://127.0.0.1:9/v1")
    answers = tmp_path / "answers.jsonl"
    answers.write_text('{"question": "q"}\n')
    done = tocsin("opinions", answers, "-c", config, "-o", tmp_path / "scores.csv", code=REFUSED)
    assert "row 1: has no text in 'answer'" in done.stderr
    done = tocsin("opinions", answers, "-c", config, "-o", tmp_path / "scores.txt", code=REFUSED)
    assert "must end in .csv or .jsonl" in done.stderr
    done = tocsin("opinions", answers, "-c", config, "-o", tmp_path / "scores.csv", "--model", "other", code=REFUSED)
    assert "'other' has no second_opinion" in done.stderr


@pytest.mark.parametrize(
    ("second", "problem"),
    [
        ({"judge": {"url": "http://127.0.0.1:9", "model": "j", "key_env": "NO_SUCH_KEY"}}, "NO_SUCH_KEY"),
        ({"sampling_key": "absent.key"}, "absent.key: cannot be read"),
        ({"answer": "text"}, "expected request.PATH or response.PATH"),
        ({"opinions": {"rating": {"kind": "rating", "prompt": "absent.txt"}}}, "absent.txt: cannot be read"),
        ({"opinions": {"rating": {"kind": "rating", "bundle": "absent.tocsin"}}}, "absent.tocsin"),
        ({"scores": "tocsin.yaml/scores.jsonl"}, "is no folder"),
    ],
)
def test_a_second_opinion_that_cannot_be_asked_is_refused_before_serving(
    tmp_path: Path, second: dict[str, Any], problem: str
) -> None:
    done = tocsin("config", "check", written(tmp_path, "http://127.0.0.1:9/v1", **second), code=REFUSED)
    assert problem in done.stdout + done.stderr


def test_a_bundle_of_another_score_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "scores.csv"
    table.write_text("risk\n" + "".join(f"{n / 400}\n" for n in range(400)))
    assert tocsin("promise", table, "--score", "risk", "-o", tmp_path / "risk.tocsin").returncode == 0
    opinions = {"rating": {"kind": "rating", "bundle": "risk.tocsin"}}
    done = tocsin("config", "check", written(tmp_path, "http://127.0.0.1:9/v1", opinions=opinions), code=REFUSED)
    assert "reads 'risk', not 'rating': make it with --score rating" in done.stdout + done.stderr


def test_streams_that_are_judged_message_by_message_have_no_whole_answers(tmp_path: Path) -> None:
    path = written(tmp_path, "http://127.0.0.1:9/v1")
    settings = yaml.safe_load(path.read_text())
    settings["models"]["chat"]["judge"] = "message"
    path.write_text(yaml.safe_dump(settings))
    done = tocsin("config", "check", path, code=REFUSED)
    assert "set `judge: end`" in done.stdout + done.stderr


def test_a_model_may_not_have_the_name_of_an_opinion(tmp_path: Path) -> None:
    second = {"judge": {"url": "http://j", "model": "j"}, "opinions": {"rating": {"kind": "rating"}}}
    models = {"chat": {"protocol": "openai", "second_opinion": second}, "chat:rating": {"protocol": "openai"}}
    with pytest.raises(ValueError, match="is the name under which the opinion 'rating' of 'chat' is counted"):
        Config(models=models)
    with pytest.raises(ValueError, match="of no call is an opinion asked"):
        Config(models={"chat": {"protocol": "openai", "second_opinion": {**second, "share": 0}}})
