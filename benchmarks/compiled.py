"""The compiled interception path, which `make compiled` puts into a folder of its own: measured beside the plain."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path("build/compiled")
GAIN = 1.5  # times less CPU, from which on compiling is worth having


def kinds() -> list[bool]:
    """Plain, and compiled where that is there."""
    return [False, True] if FOLDER.exists() else [False]


def named(name: str, compiled: bool) -> str:
    """What a row is called."""
    return f"{name}, compiled" if compiled else name


def environment(compiled: bool) -> dict[str, str]:
    """The environment of a process that is to run the one or the other."""
    return {**os.environ, "PYTHONPATH": str(FOLDER.resolve())} if compiled else dict(os.environ)
