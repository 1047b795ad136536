"""A server's process, until the end of a block."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 300.0  # seconds that a server may take to start


@contextmanager
def until_ready(
    command: Sequence[object], environment: Mapping[str, str], log: Path, is_ready: Callable[[str], bool]
) -> Iterator[None]:
    """Run a server, once its log says that it is ready. Raises RuntimeError with the end of the log where it ends or
    takes too long.
    """
    with log.open("wb") as file:
        process = subprocess.Popen([str(part) for part in command], env=environment, stdout=file, stderr=file)
        try:
            deadline = time.monotonic() + PATIENCE
            while not is_ready(log.read_text(errors="replace")):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{command[1]} did not start: {log.read_text(errors='replace')[-2_000:]}")
                time.sleep(0.2)
            yield
        finally:
            process.terminate()
            process.wait(60)
