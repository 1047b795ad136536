"""What the opinions of a real judge tell of wrong answers, beside the entropy of the answer's own tokens.

SmolLM2 answers questions whose answers are known, and SmolLM2 behind smg is the judge, asked as `tocsin opinions` asks.
Both are as small as language models come: this measures the way to a judge and how honest its figures are, not what a
good judge can do.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.report import Check, console
from benchmarks.second_opinion.real_judge import CHECKLIST, RATING, Opinions, conversation, opinions, require_judge
from benchmarks.streams import answers as streams
from benchmarks.streams.answers import Answer
from benchmarks.streams.by_task import gain, separation_by_task
from benchmarks.streams.telling import token_scores
from tocsin.configuration.opinions import LogSigmoidConfig
from tocsin.opinions.log_sigmoid import LogSigmoid, part_of

BASELINE = "token_entropy"
OPINIONS: dict[str, dict[str, Any]] = {
    "rating": RATING,
    "checklist": CHECKLIST,
    "reference": {"kind": "reference"},  # the right answer
}
COMBINED, PARTS = "log_sigmoid", ("rating", "checklist")  # of these, with centers and scales of the answers, no labels
LEAST = 20  # right and wrong answers that an opinion must have been given of


def tell(folder: Path, count: int) -> tuple[dict[str, Any], list[Check]]:
    """AUROC for wrong answers of each opinion, and of token_entropy for the same answers. `folder` keeps answers and
    opinions.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "answers.parquet"
    require_judge()
    streams.rebuild(path, folder / "model", ["short"], count)
    answers = [answer for answer in streams.read(path, ["short"], count)["short"] if answer.text.strip()]
    rows = _opinions(answers, folder)
    wrong = np.array([not answer.right for answer in answers])
    tasks = np.array([answer.question.task for answer in answers])
    baseline = token_scores(answers)[BASELINE]
    title = f"Wrong answers told, {len(answers)} answers, {wrong.mean():.0%} of them wrong"
    table = Table("opinion", "given", "AUROC", "95% interval", "token_entropy", "difference, 95% interval", title=title)
    results: dict[str, Any] = {"answers": len(answers), "wrong": float(wrong.mean())}
    for name in (*OPINIONS, COMBINED):
        scores = np.array([np.nan if row[name] is None else row[name] for row in rows])
        given = ~np.isnan(scores)
        facts: dict[str, Any] = {"given": float(given.mean())}
        results[name] = facts
        if min((wrong & given).sum(), (~wrong & given).sum()) < LEAST:
            table.add_row(name, f"{given.mean():.0%}", "too few", "", "", "")
            continue
        facts |= separation_by_task(scores[given], wrong[given], tasks[given])
        facts[BASELINE] = separation_by_task(baseline[given], wrong[given], tasks[given])["auroc"]
        facts["gain"], (low, high) = gain(scores[given], baseline[given], wrong[given])
        facts["gain interval"] = [low, high]
        table.add_row(
            name, f"{given.mean():.0%}", f"{facts['auroc']:.3f}", "{:.3f} to {:.3f}".format(*facts["interval"]),
            f"{facts[BASELINE]:.3f}", f"{facts['gain']:+.3f}, {low:+.3f} to {high:+.3f}",
        )  # fmt: skip
    console.print(table)
    return results, [
        Check(f"{name}: AUROC, lower end", round(facts["interval"][0], 4), "> 0.5", facts["interval"][0] > 0.5)
        for name, facts in results.items()
        if isinstance(facts, dict) and "interval" in facts
    ]


def _opinions(answers: Sequence[Answer], folder: Path) -> list[dict[str, Any]]:
    """The scores of each answer by opinion, None for a lost one."""
    references = folder / "references.jsonl"
    right = {answer.question.prompt: answer.question.answer for answer in answers}
    references.write_text("\n".join(json.dumps({"question": q, "answer": text}) for q, text in right.items()))
    path = folder / "opinions-usual.jsonl"
    of = OPINIONS | {"reference": {"kind": "reference", "references": references}}
    rows = opinions(path, [conversation(answer) for answer in answers], of, folder)
    return [{**row, COMBINED: score} for row, score in zip(rows, _combined(rows), strict=True)]


def _combined(rows: Opinions) -> list[float | None]:
    """The sum of log-sigmoids of PARTS for each answer, None where one of them was lost."""
    given = [{name: score for name in PARTS if (score := row[name]) is not None} for row in rows]
    parts = {name: part_of([of[name] for of in given if name in of]) for name in PARTS}
    config = {name: part for name, part in parts.items() if part is not None}
    combined = LogSigmoid(LogSigmoidConfig(kind="log_sigmoid", of=config))
    return [combined.combine(of) if len(of) == len(PARTS) else None for of in given]
