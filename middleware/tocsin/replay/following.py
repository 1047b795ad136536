"""Follows the lines of a log as they are written, through rotation and truncation, in bounded memory."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from tocsin.errors import RecordingError

CHUNK = 1 << 20  # bytes read at a time
MAX_LINE = 16 << 20  # bytes of a line
POLL_INTERVAL = 0.2  # seconds between looks at a log that has not grown


def lines_of(path: Path, *, follow: bool, wait: Callable[[float], object] = time.sleep) -> Iterator[list[str]]:
    """The complete lines of a file, or of standard input for `-`, as they come; an empty list where there are none now.

    With `follow`, what is appended later comes too, also after the file was cut or replaced by another of its name;
    `wait` is called with the seconds until the next look, and may end it all by raising. Of a line of more than 16 MiB
    only its beginning comes. Raises RecordingError where the file cannot be opened.
    """
    if str(path) == "-":
        yield from _read(sys.stdin.buffer, _Lines())
        return
    lines, file = _Lines(), _opened(path)
    try:
        while True:
            yield from _read(file, lines, ended=not follow)
            if not follow:
                return
            yield []
            wait(POLL_INTERVAL)
            if (renewed := _renewed(path, file)) is not None:
                yield from _read(file, lines)  # what was written before it was replaced
                file.close()
                file, lines = renewed, _Lines()
            elif os.fstat(file.fileno()).st_size < file.tell():
                file.seek(0)
                lines = _Lines()
    finally:
        file.close()


class _Lines:
    """Lines cut out of chunks."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, chunk: bytes) -> list[str]:
        """The lines that a chunk completes."""
        *complete, rest = chunk.split(b"\n")
        if not complete:
            self._keep(rest)
            return []
        self._keep(complete[0])
        lines = [self._take(), *(line.decode("utf-8", "replace") for line in complete[1:])]
        self._keep(rest)
        return [line for line in lines if line.strip()]

    def end(self) -> list[str]:
        """The last line, which nothing ends."""
        last = self._take()
        return [last] if last.strip() else []

    def _keep(self, part: bytes) -> None:
        self._rest += part[: MAX_LINE + 1 - len(self._rest)]

    def _take(self) -> str:
        text = self._rest.decode("utf-8", "replace")
        self._rest.clear()
        return text


def _read(file: BinaryIO, lines: _Lines, *, ended: bool = True) -> Iterator[list[str]]:
    while chunk := file.read(CHUNK):
        if complete := lines.feed(chunk):
            yield complete
    if ended and (last := lines.end()):
        yield last


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise RecordingError(f"{path}: cannot be read ({error.strerror})") from error


def _renewed(path: Path, file: BinaryIO) -> BinaryIO | None:
    """The file that has the name now, where it is another one; None where it is the same, or missing at the moment."""
    try:
        now, before = path.stat(), os.fstat(file.fileno())
        return None if os.path.samestat(now, before) else path.open("rb")
    except OSError:
        return None
