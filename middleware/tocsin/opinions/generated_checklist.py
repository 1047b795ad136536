"""Checklists that a judge writes once for a family of prompts, and the file that keeps their questions."""

from __future__ import annotations

import re
from pathlib import Path

from tocsin.errors import CheckError, ConfigError
from tocsin.opinions.lost import Lost
from tocsin.opinions.opinion import ChatModel
from tocsin.opinions.prompt import Prompt, read_text

PROMPT = """Below is what the prompts of an application have in common: its instructions, examples, or both.

{family}

Write a checklist for answers to such prompts: at most {most} questions about one answer, each of which is answered
with yes where the answer is good and with no where it is not. Each question is about one thing that can be seen in the
answer and in what was asked, is answerable by itself, and does not depend on the topic of one prompt.
Write each question on a line of its own, ending with a question mark, and nothing else.
"""
MAX_QUESTIONS = 50
MAX_LENGTH = 500  # characters of a question
_BULLET = re.compile(r"^\s*(?:[-*•]|\(?\d{1,3}[.):]|#+)?\s*(?:\[[ xX]?\]\s*)?")
_EMPHASIS = re.compile(r"^[*_`\"]+|[*_`\"]+$")


def generated_questions(judge: ChatModel, family: str, most: int, tokens: int, prompt: Prompt) -> list[str]:
    """At most so many questions of yes or no, which a judge writes about answers to a family of prompts. `tokens` is
    what its answer may take. Raises CheckError: the judge does not answer, or writes no question.

    Source: Cook et al. (2024), TICKing all the boxes, arXiv:2410.03608, once a family instead of once a prompt.
    """
    try:
        text = judge.text(prompt.fill(family=family, most=most), tokens)
    except Lost as why:
        raise CheckError(f"no checklist: {why}") from None
    questions = questions_in(text)[:most]
    if not questions:
        raise CheckError(
            "no checklist: the judge's answer has no line that ends with a question mark; try another judge"
        )
    return questions


def questions_in(text: str) -> list[str]:
    """The lines of a text that are questions, each once, without bullets, numbers and emphasis.

    >>> questions_in("Here you are:\\n1. **Is it polite?**\\n- Is it true?\\n- Is it true?")
    ['Is it polite?', 'Is it true?']
    """
    lines = (_EMPHASIS.sub("", _BULLET.sub("", line).strip()).strip() for line in text.splitlines())
    return list(dict.fromkeys(line for line in lines if line.endswith("?") and len(line) <= MAX_LENGTH))


def write_questions(path: Path, questions: list[str], written_by: str) -> None:
    """Write a file for people to review, which `questions_file` names. `written_by` is the judge's name."""
    header = [
        f"# Questions that {one_line(written_by)} wrote. Yes is good. Review them: remove, change and add lines.",
        "# Another question is another score: after a change, calibrate the opinion again.",
    ]
    path.write_text("\n".join([*header, *questions]) + "\n", "utf-8")


def read_questions(path: Path) -> list[str]:
    """The questions of a file, one a line; empty lines and those that begin with # are none. Raises ConfigError."""
    lines = [line.strip() for line in read_text(path).splitlines()]
    questions = [line for line in lines if line and not line.startswith("#")]
    if not 1 <= len(questions) <= MAX_QUESTIONS:
        raise ConfigError(f"{path}: a checklist has 1 to {MAX_QUESTIONS} questions, one a line, not {len(questions)}")
    return questions


def one_line(text: str) -> str:
    """A text without line breaks."""
    return " ".join(text.split())
