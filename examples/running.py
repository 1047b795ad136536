"""What demos share: processes that start and end, and `tocsin` commands that are shown."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 180.0  # seconds that a process may take to start


@contextmanager
def process(command: Sequence[object], log: Path, ready: str) -> Iterator[None]:
    """A process that has said it is ready, ended at the end."""
    with log.open("w") as file:
        started = subprocess.Popen([str(word) for word in command], stdout=file, stderr=subprocess.STDOUT)
        try:
            ends = time.monotonic() + PATIENCE
            while ready not in log.read_text():
                if started.poll() is not None or time.monotonic() > ends:
                    raise SystemExit(f"{command[0]} did not start: see {log}")
                time.sleep(0.1)
            yield
        finally:
            started.terminate()
            started.wait(30)


def fetched(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return str(answer.read().decode())


def tocsin(verb: str) -> list[object]:
    return [sys.executable, "-m", "tocsin", verb]


def run(verb: str, *words: object) -> None:
    say(f"tocsin {verb} {' '.join(map(str, words))}")
    subprocess.run([str(word) for word in (*tocsin(verb), *words)], check=True)


def say(what: str) -> None:
    print(f"\n== {what}", flush=True)
