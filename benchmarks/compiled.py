"""The compiled interception path, which `make compiled` puts into a folder of its own: measured beside the plain."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path("build/compiled")
GAIN = 1.5  # times less CPU, from which on compiling is worth having


def kinds() -> list[bool]:
    """Which builds can be measured: plain, and compiled where `make compiled` has built it."""
    return [False, True] if FOLDER.exists() else [False]


def named(name: str, compiled: bool) -> str:
    """The name of a table's row: the hop, with its build."""
    return f"{name}, compiled" if compiled else name


def environment(compiled: bool) -> dict[str, str]:
    """The environment of a process that runs the plain or the compiled build."""
    return {**os.environ, "PYTHONPATH": str(FOLDER.resolve())} if compiled else dict(os.environ)
