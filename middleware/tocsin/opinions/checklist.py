"""A checklist of questions that are answered with yes or no."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from tocsin.configuration.opinions import ChecklistConfig
from tocsin.opinions.choices import choice_probabilities
from tocsin.opinions.generated_checklist import read_questions
from tocsin.opinions.opinion import ChatModel
from tocsin.opinions.prompt import read_prompt
from tocsin.protocols.texts import Conversation

PROMPT = """Question: {question}
Answer: {answer}

About this answer: {item}
Reply with yes or no only.
Reply:"""
YES, NO = ["yes", "Yes", "YES"], ["no", "No", "NO"]


class Checklist:
    """(1/M) sum_m p_m(no), in [0, 1]: the expected share of M questions that the judge answers with no.

    One call of the judge for each question: the probability of no against yes as the first token. An answer is missing
    where one of them is. The questions are given, or stand in a file, as `tocsin checklist` writes it. Placeholders:
    {answer}, {item}, which is the checklist's question, and {question}.

    Source: Cook et al. (2024), TICKing all the boxes, arXiv:2410.03608.
    """

    kind: ClassVar[str] = "checklist"
    source: ClassVar[str] = "TICK, Cook et al. 2024, arXiv:2410.03608"

    def __init__(self, config: ChecklistConfig) -> None:
        self._prompt = read_prompt(config.prompt, PROMPT, ["answer", "item"], ["question"])
        self._items = config.questions if config.questions_file is None else read_questions(config.questions_file)

    def ask(self, judge: ChatModel, conversation: Conversation) -> float:
        """The score of an answer. Raises Lost."""
        prompts = [self._prompt.fill(item=item, **conversation._asdict()) for item in self._items]
        return float(np.mean([choice_probabilities(judge.first_token(prompt), [YES, NO])[1] for prompt in prompts]))
