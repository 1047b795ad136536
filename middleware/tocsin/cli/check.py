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
    """Is a model fit to judge answers? Exit code 3 when an answer that says nothing passes, good answers are rated no
    higher than bad ones, or the order decides.
    """
    console = Console(highlight=False)
    chat = Chat(url, model, os.environ.get(key_env, ""))
    found = check_judge(
        chat, read_pairs(questions), ratings=ratings, passes=passes, told=lambda what: console.print(f"[dim]{what}[/]")
    )
    rows = [
        ("expected rating of good answers", f"{found.good:.2f} of {ratings}"),
        ("expected rating of bad answers", f"{found.bad:.2f} of {ratings}"),
        ("pairs rated in their order, by expectation", f"{found.by_expectation:.0%}"),
        ("pairs rated in their order, by likeliest rating", f"{found.by_mode:.0%}"),
        ("entropy of a rating, nats", f"{found.entropy:.2f}"),
        ("least probability of a rating at all", f"{found.told:.2f}"),
        ("good answer preferred, over both orders", f"{found.preferred:.0%}"),
        ("preference changes with the order", f"{found.swaps:.0%} of pairs, by {found.apart:.2f} on average"),
        ("answers that say nothing and pass", f"{found.resistance.rate:.0%} of {found.resistance.questions}"),
    ]
    print_table(console, ["of the judge", "found"], rows)
    if not found.unfit:
        console.print(f"fit: {found.resistance}", markup=False, soft_wrap=True)
        return
    for why in found.unfit:
        console.print(f"not fit: {why}", markup=False, soft_wrap=True)
    raise typer.Exit(NOT_FIT)
