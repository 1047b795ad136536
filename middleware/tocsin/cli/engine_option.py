"""--on: where work over many files is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tocsin.offline.engine import HERE

MAX_ROWS_IN_MEMORY = 1 << 20  # responses; more are not held in memory, where nothing needs them all at once

On = Annotated[
    str,
    typer.Option(
        help="here, ray (the cluster that RAY_ADDRESS names, else processes on this machine), or ray://HOST:PORT."
    ),
]


def in_parts(on: str, rows: int) -> bool:
    """Whether to go through the recording file by file."""
    return on != HERE or rows > MAX_ROWS_IN_MEMORY


@contextmanager
def counted(console: Console, what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Shows how much of `total` is done; what it gives is told how much more."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda more: progress.advance(task, more)
