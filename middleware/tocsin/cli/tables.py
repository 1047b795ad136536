"""Tables as they are printed everywhere: as wide as they need to be, so that they can be read, copied and searched."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

MAX_WIDTH = 1_000  # characters


def print_table(
    console: Console, columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: bool = False, bold: int = -1
) -> None:
    """Print rows under column names, one line each; `right` aligns right, `bold` is the row to stress."""
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=True, justify="right" if right else "left")
    for at, row in enumerate(rows):
        table.add_row(*row, style="bold" if at == bold else "")
    needed = Measurement.get(console, console.options.update(max_width=MAX_WIDTH), table).maximum
    usual = console.width
    console.width = max(usual, needed)
    console.print(table)
    console.width = usual
