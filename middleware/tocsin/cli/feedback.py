"""tocsin feedback"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from tocsin.cli.reload import TokenOption
from tocsin.errors import FeedbackError
from tocsin.feedback import Label, report

WORDS = {"safe": True, "true": True, "1": True, "bad": False, "false": False, "0": False}


def feedback(
    labels: Annotated[Path, typer.Argument(help="A CSV file with the columns model, id and safe.")],
    to: Annotated[str, typer.Option(help="The admin address of a running tocsin.")] = "127.0.0.1:9465",
    token: TokenOption = None,
) -> None:
    """Report to a running tocsin which responses were safe. Levels configured with `adapt` follow these labels."""
    total = report(to, _read(labels), "" if token is None else token.read_text().strip())
    outcomes = {outcome: count for outcome, count in total.items() if count or outcome != "forwarded"}
    typer.echo(", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.items()))


def _read(path: Path) -> Iterator[Label]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            missing = {"model", "id", "safe"} - set(rows.fieldnames or ())
            if missing:
                raise FeedbackError(
                    f"{path}: lacks the column {', '.join(sorted(missing))}; it needs model, id and safe"
                )
            for number, row in enumerate(rows, 2):
                word = (row["safe"] or "").strip().lower()
                if word not in WORDS or not row["id"]:
                    raise FeedbackError(
                        f"{path}: line {number}: safe must be one of {', '.join(WORDS)}, and id not empty"
                    )
                yield row["model"], row["id"], WORDS[word]
    except (OSError, UnicodeDecodeError) as error:
        raise FeedbackError(f"{path}: cannot be read ({error})") from None
