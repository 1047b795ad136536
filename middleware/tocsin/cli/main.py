"""Puts the verbs together, and turns errors into one clear line."""

from __future__ import annotations

import logging
import sys
from typing import NoReturn

import typer
from rich.console import Console

from tocsin.cli import (
    bundle,
    calibrate,
    config,
    demo,
    evaluate,
    feedback,
    fit,
    harmonise,
    plan,
    record,
    reload,
    rules,
    select,
    serve,
    sets,
    top,
)
from tocsin.errors import TocsinError
from tocsin_calibration import CalibrationFault
from tocsin_detectors import DetectorError

USERS_MISTAKE = 2

app = typer.Typer(
    name="tocsin",
    help="Runtime monitoring for deployed models, with a false-alarm rate that is promised and measured.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)
app.command("serve")(serve.serve)
app.command("record")(record.record)
app.command("fit")(fit.fit)
app.command("calibrate")(calibrate.calibrate)
app.command("evaluate")(evaluate.evaluate)
app.command("select")(select.select)
app.command("sets")(sets.sets)
app.command("harmonise")(harmonise.harmonise)
app.command("feedback")(feedback.feedback)
app.command("reload")(reload.reload)
app.command("top")(top.top)
app.command("rules")(rules.rules)
app.command("demo")(demo.demo)
app.add_typer(bundle.app, name="bundle")
app.add_typer(config.app, name="config")
app.add_typer(plan.app, name="plan")


@app.callback()
def logs(verbose: bool = typer.Option(False, "--verbose", "-v", help="Tell more in the log.")) -> None:
    """Set the log up for every verb."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    for noisy in ("asyncio", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def main() -> None:
    """The entry point: exit code 0, 2 for the user's mistakes, 1 for ours."""
    try:
        app()
    except (TocsinError, CalibrationFault, DetectorError) as error:
        _fail(str(error))
    except OSError as error:
        if error.filename is None:  # no file that the user named
            raise
        _fail(f"{error.filename}: cannot be read or written ({error.strerror})")


def _fail(told: str) -> NoReturn:
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"[red]error:[/] {_escaped(told)}")
    sys.exit(USERS_MISTAKE)


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")
