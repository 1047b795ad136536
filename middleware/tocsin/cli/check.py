"""tocsin check judge"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tocsin.checks.chat import Chat
from tocsin.checks.judge import check_judge, read_pairs
from tocsin.cli.tables import print_table

NOT_FIT = 3

app = typer.Typer(help="Check what stands around models, before it guards anything.", no_args_is_help=True)


@app.callback()
def checks() -> None:
    """Check what stands around models, before it guards anything."""


@app.command("judge")
def judge(
    url: Annotated[str, typer.Option(help="An OpenAI-compatible API, such as http://127.0.0.1:30000/v1.")],
    model: Annotated[str, typer.Option(help="The judge's name there.")],
    questions: Annotated[
        Path | None, typer.Option(help="A YAML list of {question, good, bad}; those that come along unless told.")
    ] = None,
    ratings: Annotated[int, typer.Option(min=2, max=9, help="Ratings go from 1 to this.")] = 5,
    passes: Annotated[
        float | None, typer.Option(help="Answers pass from this expected rating on; the middle unless told.")
    ] = None,
    key_env: Annotated[str, typer.Option(help="The environment variable that holds the API key.")] = "OPENAI_API_KEY",
) -> None:
    """Check whether a model is fit to judge answers. Exit code 3 when an answer without content passes, good answers
    are rated no higher than bad ones, or the order of the answers decides.
    """
    console = Console(highlight=False)
    chat = Chat(url, model, os.environ.get(key_env, ""))
    finding = check_judge(
        chat,
        read_pairs(questions),
        ratings=ratings,
        passes=passes,
        on_step=lambda what: console.print(f"[dim]{what}[/]"),
    )
    rows = [
        ("expected rating of good answers", f"{finding.good:.2f} of {ratings}"),
        ("expected rating of bad answers", f"{finding.bad:.2f} of {ratings}"),
        ("pairs rated in their order, by expectation", f"{finding.by_expectation:.0%}"),
        ("pairs rated in their order, by likeliest rating", f"{finding.by_mode:.0%}"),
        ("entropy of a rating, nats", f"{finding.entropy:.2f}"),
        ("least probability of a rating at all", f"{finding.least_rating_mass:.2f}"),
        ("good answer preferred, over both orders", f"{finding.preferred:.0%}"),
        ("preference changes with the order", f"{finding.swaps:.0%} of pairs, by {finding.apart:.2f} on average"),
        ("answers that say nothing and pass", f"{finding.resistance.rate:.0%} of {finding.resistance.questions}"),
    ]
    print_table(console, ["of the judge", "found"], rows)
    if not finding.unfit:
        console.print(f"fit: {finding.resistance}", markup=False, soft_wrap=True)
        return
    for why in finding.unfit:
        console.print(f"not fit: {why}", markup=False, soft_wrap=True)
    raise typer.Exit(NOT_FIT)
