"""A file of events, one JSON object on each line."""

from __future__ import annotations

import fcntl
import logging
import os
from collections import Counter
from contextlib import suppress
from pathlib import Path

from tocsin.log_throttle import LogThrottle, and_more

log = logging.getLogger("tocsin")


class JsonLines:
    """Appends events to a file, which may be moved away at any time, and to which other processes may append too.

    Only its owner can read the file. A line that a full disk cuts short is removed, so that no two events share a line.
    """

    label = "file"
    waiting = 0

    def __init__(self, path: Path) -> None:
        self.counts: Counter[str] = Counter()
        self._path = path
        self._throttle = LogThrottle()
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(self._open())

    def put(self, line: bytes) -> None:
        try:
            self._append(line)
        except OSError as error:
            self.counts["dropped"] += 1
            if (suppressed := self._throttle.admit("dropped")) is not None:
                log.error("an event cannot be written to %s and is lost: %s%s", self._path, error, and_more(suppressed))
            return
        self.counts["delivered"] += 1

    def close(self) -> None:
        """Nothing is kept open."""

    def _open(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _append(self, line: bytes) -> None:
        """Write a line whole or not at all, whoever else writes to the file. Raises OSError."""
        handle = self._open()
        try:
            with suppress(OSError):  # some network file systems have no locks
                fcntl.flock(handle, fcntl.LOCK_EX)
            size = os.fstat(handle).st_size
            if size and os.pread(handle, 1, size - 1) != b"\n":  # of a process that was killed as it wrote
                line = b"\n" + line
            try:
                written = os.write(handle, line)
                if written < len(line):
                    written += os.write(handle, line[written:])  # tells why there is no room for the rest
                if written < len(line):
                    raise OSError("it was cut short")
            except OSError:
                with suppress(OSError):
                    os.ftruncate(handle, size)
                raise
        finally:
            os.close(handle)
