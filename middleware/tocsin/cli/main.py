"""Puts the verbs together, and turns errors into one clear line."""

from __future__ import annotations

import sys
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from tocsin.cli import (
    bundle,
    calibrate,
    check,
    config,
    dashboards,
    demo,
    evaluate,
    explain,
    feedback,
    fit,
    harmonise,
    inject,
    logs,
    plan,
    record,
    reload,
    replay,
    rules,
    score,
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
app.command("score")(score.score)
app.command("calibrate")(calibrate.calibrate)
app.command("evaluate")(evaluate.evaluate)
app.command("select")(select.select)
app.command("sets")(sets.sets)
app.command("harmonise")(harmonise.harmonise)
app.command("feedback")(feedback.feedback)
app.command("reload")(reload.reload)
app.command("top")(top.top)
app.command("replay")(replay.replay)
app.command("explain")(explain.explain)
app.command("rules")(rules.rules)
app.command("inject")(inject.inject)
app.command("dashboards")(dashboards.dashboards)
app.command("demo")(demo.demo)
app.add_typer(bundle.app, name="bundle")
app.add_typer(check.app, name="check")
app.add_typer(config.app, name="config")
app.add_typer(plan.app, name="plan")


@app.callback()
def every_verb(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Tell more in the log.")] = False,
    log: Annotated[
        logs.Form, typer.Option(envvar=logs.FORMAT, help="Lines for people, or JSON for programs.")
    ] = "text",
) -> None:
    """Set the log up for every verb."""
    logs.set_up(log, verbose=verbose)


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
