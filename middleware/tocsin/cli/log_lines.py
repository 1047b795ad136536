"""Lines of the log. Whatever peers put into names, a line stays one line, printable and of bounded length."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, MutableMapping
from typing import Any

MAX_TEXT_LENGTH = 2_000  # characters of a message, or of a field
MAX_DEPTH, MAX_ENTRIES = 4, 64  # levels, and entries of each, of a field that holds others

# Controls (C0, DEL, C1), line and paragraph separators, marks that change the direction of writing, lone surrogates.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def one_line(text: str) -> str:
    """The text with unprintable characters escaped as Python does (\\n, \\x1b), cut to at most LONGEST characters."""
    escaped = _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text[:MAX_TEXT_LENGTH])
    if len(text) <= MAX_TEXT_LENGTH and len(escaped) <= MAX_TEXT_LENGTH:
        return escaped
    return f"{escaped[:MAX_TEXT_LENGTH]}... ({len(text):,} characters in all)"


class LineFormatter(logging.Formatter):
    """Time, level and message for people; a traceback follows in lines that are indented, so that none looks like
    another entry.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The first line."""
        record.message = one_line(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        """The traceback."""
        return "\n".join(f"  | {one_line(line)}" for line in super().formatException(ei).split("\n"))

    def formatStack(self, stack_info: str) -> str:
        """Where the line was logged."""
        return "\n".join(f"  | {one_line(line)}" for line in stack_info.split("\n"))


def bounded(logger: Any, method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """A processor of structlog that does the same to the message and to every field of a JSON line."""
    del logger, method
    return {one_line(str(name)): _bounded(value, MAX_DEPTH) for name, value in event.items()}


def _bounded(value: Any, levels: int) -> Any:
    if isinstance(value, str):
        return one_line(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if levels and isinstance(value, Mapping):
        return {one_line(str(name)): _bounded(inner, levels - 1) for name, inner in list(value.items())[:MAX_ENTRIES]}
    if levels and isinstance(value, list | tuple):
        return [_bounded(inner, levels - 1) for inner in value[:MAX_ENTRIES]]
    return one_line(str(value))
