"""tocsin convert"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tocsin.cli.output_files import require_writable
from tocsin.errors import ConfigError
from tocsin.recording.converting import SUFFIXES, convert_table


def convert(
    source: Annotated[Path, typer.Argument(help=f"A table with a row for each response: {SUFFIXES}.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The Parquet file to write: a recording.")],
    signal: Annotated[
        list[str],
        typer.Option(
            "--signal",
            help="NAME=COLUMN: the signal's name, and the column that holds it, as numbers or lists of numbers. "
            "NAME=P0,P1,P2 or NAME='P*' puts several columns side by side. May be repeated.",
        ),
    ],
    session: Annotated[str | None, typer.Option(help="The column that names each row's session.")] = None,
    group: Annotated[str | None, typer.Option(help="The column that names the group of a response.")] = None,
    version: Annotated[str | None, typer.Option(help="The column that names the model's version.")] = None,
    model: Annotated[str | None, typer.Option(help="The column that names the model.")] = None,
) -> None:
    """Make a recording of a table of your own, for fit, calibrate, evaluate and replay."""
    require_writable(out)
    signals: dict[str, str] = {}
    for text in signal:
        name, separator, column = text.partition("=")
        if not (name and separator and column):
            raise ConfigError(f"--signal {text}: write NAME=COLUMN")
        if name in signals:
            raise ConfigError(f"--signal {text}: '{name}' is named twice")
        signals[name] = column
    keys = {"session": session, "group": group, "version": version, "model": model}
    rows = convert_table(source, out, signals, {key: column for key, column in keys.items() if column is not None})
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"wrote {out}: {rows:,} responses, signals {', '.join(signals)}; next: tocsin fit {out} --suggest")
