"""tocsin checklist"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tocsin.cli.opinions import second_opinion_of
from tocsin.cli.output_files import require_writable
from tocsin.configuration.config import Config
from tocsin.errors import ConfigError
from tocsin.offline.opinions import paced_judge
from tocsin.opinions.generated_checklist import MAX_QUESTIONS, PROMPT, generated_questions, write_questions
from tocsin.opinions.prompt import read_prompt, read_text


def checklist(
    family: Annotated[
        Path, typer.Argument(help="A text file with what the prompts have in common: instructions, examples.")
    ],
    config: Annotated[Path, typer.Option("--config", "-c", help="The configuration with the `second_opinion`.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file of questions to write, one a line.")],
    model: Annotated[str | None, typer.Option(help="The model, where several have a second opinion.")] = None,
    most: Annotated[int, typer.Option(min=1, max=MAX_QUESTIONS, help="Questions at most.")] = 8,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens that the judge's answer may take.")] = 1_024,
    prompt: Annotated[
        Path | None, typer.Option(help="A file with another prompt, in which {family} and {most} are filled in.")
    ] = None,
) -> None:
    """Have a judge write a checklist for a family of prompts, once, for people to review. The file is sent to it."""
    console = Console(highlight=False, soft_wrap=True, markup=False)
    require_writable(out)
    if out.exists():
        raise ConfigError(
            f"{out}: exists already; another checklist is another score. Remove the file, and calibrate again"
        )
    text = read_text(family).strip()
    if not text:
        raise ConfigError(f"{family}: is empty; write what the prompts have in common")
    instructions = read_prompt(prompt, PROMPT, ["family"], ["most"])
    second = second_opinion_of(Config.load(config), config, model)
    questions = generated_questions(paced_judge(second), text, most, tokens, instructions)
    write_questions(out, questions, second.judge.model)
    console.print(f"{out} has {len(questions)} questions of {second.judge.model}:")
    for question in questions:
        console.print(f"  {question}")
    console.print(f"review it, then name it: opinions: {{NAME: {{kind: checklist, questions_file: {out}}}}}")
