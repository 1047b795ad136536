"""A table of questions and answers as text: JSON lines, CSV or Parquet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tocsin.errors import RecordingError
from tocsin.protocols.texts import Conversation, text_of, turns_of
from tocsin.recording.converting import columns_of
from tocsin.recording.json_rows import Row, rows_of, value_at
from tocsin.recording.score_table import JSON_LINES, TABLES
from tocsin.unscored import Unscored


class AnswerRow(NamedTuple):
    """One answer with its question, and what else its row holds: numbers, texts, true and false."""

    conversation: Conversation
    others: dict[str, Any]


def read_answers(path: Path, question: str, answer: str) -> Iterator[AnswerRow]:
    """The rows of a file, whose texts are in the columns, or in JSON at the dotted paths, of these names. Conversations
    may be lists of messages as OpenAI's API has them.

    Raises RecordingError: no such file or column, another kind of file, a row without one of the texts.
    """
    for number, row in _rows(path):
        texts = [text_of(value_at(row, name)) for name in (question, answer)]
        for name, text in zip((question, answer), texts, strict=True):
            if not text.strip():
                raise RecordingError(f"{path}: row {number:,}: has no text in '{name}'")
        others = {
            name: value
            for name, value in row.items()
            if name not in (question, answer) and isinstance(value, str | int | float)
        }
        yield AnswerRow(Conversation(texts[0], texts[1], turns_of(value_at(row, question))), others)


def _rows(path: Path) -> Iterator[tuple[int, Row]]:
    if path.suffix in JSON_LINES:
        try:
            with path.open(encoding="utf-8") as file:
                lines = (line for line in file if line.strip())
                yield from enumerate((row for line in lines for row in rows_of(line, ())), 1)
        except (OSError, UnicodeDecodeError, Unscored) as error:
            raise RecordingError(f"{path}: cannot be read ({error})") from None
        return
    if path.suffix not in TABLES:
        raise RecordingError(
            f"{path}: what ends in '{path.suffix}' cannot be read; it must be .jsonl, .csv or .parquet"
        )
    columns = {name: column.to_pylist() for name, column in columns_of(path).items()}  # type: ignore[union-attr]
    for number, values in enumerate(zip(*columns.values(), strict=True), 1):
        yield number, dict(zip(columns, values, strict=True))
