"""tocsin opinions"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tocsin.cli.output_files import require_writable
from tocsin.configuration.config import Config
from tocsin.configuration.second_opinion import SecondOpinionConfig
from tocsin.errors import ConfigError
from tocsin.offline.opinions import Asker
from tocsin.opinions.log_sigmoid import LogSigmoid
from tocsin.recording.answer_table import read_answers
from tocsin.recording.reading import require_pyarrow
from tocsin.recording.score_table import TABLES


def opinions(
    table: Annotated[Path, typer.Argument(help="Questions and answers, a row for each: JSON lines, .csv or .parquet.")],
    config: Annotated[Path, typer.Option("--config", "-c", help="The configuration with the `second_opinion`.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file of scores to write: .csv or .jsonl.")],
    model: Annotated[str | None, typer.Option(help="The model, where several have a second opinion.")] = None,
    question: Annotated[str, typer.Option(help="The column of the question, or in JSON its dotted path.")] = "question",
    answer: Annotated[str, typer.Option(help="The column of the answer, likewise.")] = "answer",
    calls_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Calls of the judge a minute, instead of those of the configuration.")
    ] = None,
) -> None:
    """Ask a judge for its opinions of recorded answers, for `tocsin promise`. Their texts are sent to the judge."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if out.suffix not in (".csv", ".jsonl"):
        raise ConfigError(f"{out}: must end in .csv or .jsonl")
    require_writable(out)
    if out.resolve() == table.resolve():
        raise ConfigError(f"{out}: holds the answers themselves; name another file for their scores")
    if table.suffix in TABLES:
        require_pyarrow()
    second = second_opinion_of(Config.load(config), config, model)
    asker = Asker(second, calls_per_minute)
    with console.status("asking") as status:
        given = asker.write(
            read_answers(table, question, answer), out, lambda rows: status.update(f"asked about {rows:,} answers")
        )
    console.print(f"{out} holds the opinions of {second.judge.model} about {given.rows:,} answers:")
    for name in asker.opinions:
        lost = ", ".join(f"{count:,} {reason}" for (opinion, reason), count in given.lost.items() if opinion == name)
        console.print(f"  {name}: {given.scores.get(name, 0):,} scores" + (f"; lost: {lost}" if lost else ""))
    if len(given.parts) > 1 and not any(isinstance(of, LogSigmoid) for of in asker.opinions.values()):
        parts = ", ".join(
            f"{name}: {{center: {part.center:.4g}, scale: {part.scale:.4g}}}" for name, part in given.parts.items()
        )
        combined = f"{{kind: log_sigmoid, of: {{{parts}}}}}"
        console.print(f"to combine them, where these answers are safe and others calibrate: {combined}")
    first = next(iter(asker.opinions))
    leave_out = " --leave-out-broken" if given.lost else ""
    console.print(f"next: tocsin promise {out} --score {first} --alpha 0.05{leave_out} --out {first}.tocsin")


def second_opinion_of(config: Config, path: Path, model: str | None) -> SecondOpinionConfig:
    """The second opinion of the model that was named, or of the only one that has it. Raises ConfigError."""
    having = {name: of.second_opinion for name, of in config.models.items() if of.second_opinion is not None}
    if model is None and len(having) == 1:
        return next(iter(having.values()))
    if model is not None and model in having:
        return having[model]
    names = ", ".join(having) or "none"
    which = "name one of the models with --model" if model is None else f"'{model}' has no second_opinion"
    raise ConfigError(f"{path}: {which} (models with a second_opinion: {names})")
