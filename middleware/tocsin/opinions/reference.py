"""The answer beside a reference answer, in both orders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

from tocsin.checks.judge import COMPARISON_PROMPT
from tocsin.configuration.opinions import ReferenceConfig
from tocsin.errors import ConfigError
from tocsin.opinions.choices import choice_probabilities
from tocsin.opinions.lost import Lost
from tocsin.opinions.opinion import ChatModel
from tocsin.opinions.prompt import read_prompt, read_text
from tocsin.protocols.texts import Conversation


class Reference:
    """1 - (p + q) / 2, in [0, 1]: the probability that the judge prefers the reference, where p and q are its
    probabilities of preferring the answer when that is shown first and second.

    Two calls of the judge, and one before them where it answers the question itself. Placeholders: {first}, {second},
    and {question}.

    Source: Zheng et al. (2023), arXiv:2306.05685.
    """

    kind: ClassVar[str] = "reference"
    source: ClassVar[str] = "Zheng et al. 2023, arXiv:2306.05685"

    def __init__(self, config: ReferenceConfig) -> None:
        self._prompt = read_prompt(config.prompt, COMPARISON_PROMPT, ["first", "second"], ["question"])
        self._tokens = config.tokens
        self._references = None if config.references is None else _read_references(config.references)

    def ask(self, judge: ChatModel, conversation: Conversation) -> float:
        """The score of an answer. Raises Lost."""
        question, answer = conversation.question, conversation.answer
        if self._references is None:
            reference = judge.text(question, self._tokens).strip()
        elif question.strip() not in self._references:
            raise Lost("no_reference", "the file of references has none for this question")
        else:
            reference = self._references[question.strip()]
        return (
            1
            - (
                self._prefers_first(judge, question, answer, reference)
                + (1 - self._prefers_first(judge, question, reference, answer))
            )
            / 2
        )

    def _prefers_first(self, judge: ChatModel, question: str, first: str, second: str) -> float:
        prompt = self._prompt.fill(question=question, first=first, second=second)
        return float(choice_probabilities(judge.first_token(prompt), [["A"], ["B"]])[0])


def _read_references(path: Path) -> dict[str, str]:
    """Reference answers by question. Raises ConfigError naming the line."""
    references: dict[str, str] = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            question, answer = row["question"], row["answer"]
        except (ValueError, KeyError, TypeError):
            raise ConfigError(f'{path}: line {number}: expected {{"question": ..., "answer": ...}}') from None
        references[str(question).strip()] = str(answer)
    if not references:
        raise ConfigError(f"{path}: holds no reference")
    return references
