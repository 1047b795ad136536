"""Events that are not delivered yet, on disk: they outlive the process, however it ends.

A folder of segments, which are files of lines. Each process writes its own segments, under a lock; another process
adopts those whose process is gone. A file beside each segment says how far it is delivered, so that after a kill the
last line may be delivered twice and none is lost. (Lines are not synced to the disk one by one: they survive the
process, not a power failure.)
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

SEGMENT_SIZE = 1 << 20  # bytes after which a new one begins
SUFFIX, DONE = ".events", ".done"


class Spool:
    """First in, first out. Safe between threads, with one reader; raises OSError when the folder cannot be used."""

    def __init__(self, folder: Path, limit: int) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder, self._limit = folder, limit
        self._lock = threading.Lock()
        self._segments: deque[_Segment] = deque()
        self._writing: _Segment | None = None
        self.adopt()

    @property
    def waiting(self) -> int:
        """Bytes that are not delivered yet."""
        return sum(segment.remaining for segment in list(self._segments))

    def put(self, line: bytes) -> bool:
        """Append a line, newline included; False when there is no room for it. Raises OSError when it cannot be
        written; then nothing of it is kept.
        """
        with self._lock:
            if self.waiting + len(line) > self._limit:
                return False
            if self._writing is None or self._writing.size >= SEGMENT_SIZE:
                self._writing = _Segment.new(self._folder)
                self._segments.append(self._writing)
            self._writing.append(line)
            return True

    def head(self) -> bytes | None:
        """The oldest line, None when there is none."""
        with self._lock:
            while self._segments:
                first = self._segments[0]
                if (line := first.head()) is not None:
                    return line
                if first is self._writing:
                    return None
                self._segments.popleft().remove()
        return None

    def done(self, line: bytes) -> None:
        """The oldest line is delivered."""
        with self._lock:
            self._segments[0].advance(len(line))

    def adopt(self) -> None:
        """Take over the segments of processes that are gone."""
        with self._lock:
            known_paths = {segment.path for segment in self._segments}
            adopted: list[_Segment] = []
            try:
                for path in sorted(self._folder.glob(f"*{SUFFIX}")):
                    if path not in known_paths and (segment := _Segment.left_behind(path)) is not None:
                        adopted.append(segment)
            finally:
                self._segments.extendleft(reversed(adopted))

    def close(self) -> None:
        """Leave undelivered lines to the next process."""
        with self._lock:
            while self._segments:
                segment = self._segments.popleft()
                if segment.remaining:
                    segment.close()
                else:
                    segment.remove()
            self._writing = None


class _Segment:
    def __init__(self, path: Path, handle: int, size: int, at: int) -> None:
        self.path, self.size, self._handle, self._at = path, size, handle, at
        try:
            self._progress = os.open(path.with_suffix(DONE), os.O_RDWR | os.O_CREAT, 0o600)
        except OSError:
            os.close(handle)
            raise

    @property
    def remaining(self) -> int:
        return self.size - self._at

    @classmethod
    def new(cls, folder: Path) -> _Segment:
        while True:
            path = folder / f"{time.time_ns():020d}-{os.getpid()}{SUFFIX}"
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
            if _locked(handle):  # else somebody has adopted it already
                return cls(path, handle, 0, 0)
            os.close(handle)

    @classmethod
    def left_behind(cls, path: Path) -> _Segment | None:
        """The segment of a process that has ended, None where there is none or its process still runs."""
        try:
            handle = os.open(path, os.O_RDWR | os.O_APPEND)
        except FileNotFoundError:
            return None
        if not _locked(handle):
            os.close(handle)
            return None
        size = os.fstat(handle).st_size
        complete = os.pread(handle, size, 0).rfind(b"\n") + 1  # what was cut short was never told to be there
        return cls(path, handle, complete, min(_progress(path.with_suffix(DONE)), complete))

    def append(self, line: bytes) -> None:
        """Write a line whole or not at all. Raises OSError."""
        written = 0
        try:
            written = os.write(self._handle, line)
            if written < len(line):
                written += os.write(self._handle, line[written:])  # tells why there is no room for the rest
            if written < len(line):
                raise OSError("it was cut short")
        except OSError:
            os.ftruncate(self._handle, self.size)
            raise
        self.size += written

    def head(self) -> bytes | None:
        if not self.remaining:
            return None
        chunk, wanted = b"", 4096
        while not (end := chunk.find(b"\n") + 1):
            chunk, wanted = os.pread(self._handle, min(wanted, self.remaining), self._at), wanted * 4
        return chunk[:end]

    def advance(self, length: int) -> None:
        self._at += length
        with suppress(OSError):  # a full disk: a later process may deliver it once more
            os.pwrite(self._progress, b"%020d" % self._at, 0)

    def close(self) -> None:
        os.close(self._progress)
        os.close(self._handle)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self.path.with_suffix(DONE).unlink(missing_ok=True)
        self.close()


def _progress(path: Path) -> int:
    """How far a segment is delivered; 0 where its progress file cannot be read."""
    try:
        return max(0, int(path.read_bytes() or 0))
    except (OSError, ValueError):
        return 0


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
