"""Assembles the commands, and turns errors into one clear line."""

from __future__ import annotations

import sys
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from tocsin.cli import logs
from tocsin.cli.verbs import Verbs
from tocsin.errors import TocsinError

USERS_MISTAKE = 2

app = typer.Typer(
    name="tocsin",
    cls=Verbs,
    help="Runtime monitoring for deployed models, with a false-alarm rate that is promised and measured.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from tocsin.cli.edition import version_line

        typer.echo(version_line())
        raise typer.Exit


@app.callback()
def every_verb(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Tell more in the log.")] = False,
    log: Annotated[
        logs.Form, typer.Option(envvar=logs.FORMAT, help="Lines for people, or JSON for programs.")
    ] = "text",
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Configure the log for every command."""
    del version
    logs.set_up(log, verbose=verbose)


def main() -> None:
    """The entry point. Exit codes: 0, 2 for mistakes of the user, 1 for faults of Tocsin."""
    try:
        app()
    except TocsinError as error:
        _fail(str(error))
    except OSError as error:
        if error.filename is None:  # no file that the user named
            raise
        _fail(f"{error.filename}: cannot be read or written ({error.strerror})")
    except Exception as error:
        from tocsin_calibration import CalibrationFault  # which takes a second to import
        from tocsin_detectors import DetectorError

        if not isinstance(error, CalibrationFault | DetectorError):
            raise
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"[red]error:[/] {_escaped(message)}")
    sys.exit(USERS_MISTAKE)


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")
