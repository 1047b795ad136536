"""A rating by a rubric, after the reasons for it."""

from __future__ import annotations

import re
from typing import ClassVar

from tocsin.configuration.opinions import RubricConfig
from tocsin.opinions.lost import Lost
from tocsin.opinions.opinion import ChatModel
from tocsin.opinions.prompt import read_prompt, read_text
from tocsin.protocols.texts import Conversation

PROMPT = """Assess the answer to the question strictly by the rubric.
First write short feedback. End with [RESULT] and the rating, a number from 1 to {best}.

Rubric:
{rubric}

Question: {question}
Answer: {answer}

Feedback:"""
_RESULT = re.compile(r"\[RESULT\]\W*(?:\w+\W+)?([0-9]+)")  # [RESULT] 4, [RESULT]: (4), [RESULT] Score: 4


class Rubric:
    """R - r, in {0, ..., R - 1}: how many points the rating by a rubric falls short of the best.

    One call of the judge, which writes its reasons and then `[RESULT] r`; the last one counts. Needs no
    log-probabilities. Placeholders: {answer}, {rubric}, and {question} and {best}, the best rating.

    Source: Kim et al. (2024), Prometheus 2, arXiv:2405.01535.
    """

    kind: ClassVar[str] = "rubric"
    source: ClassVar[str] = "Prometheus 2, Kim et al. 2024, arXiv:2405.01535"

    def __init__(self, config: RubricConfig) -> None:
        self._prompt = read_prompt(config.prompt, PROMPT, ["answer", "rubric"], ["question", "best"])
        self._rubric, self._ratings, self._tokens = read_text(config.rubric), config.ratings, config.tokens

    def ask(self, judge: ChatModel, conversation: Conversation) -> float:
        """The score of an answer. Raises Lost."""
        prompt = self._prompt.fill(best=self._ratings, rubric=self._rubric, **conversation._asdict())
        results = _RESULT.findall(judge.text(prompt, self._tokens))
        rating = int(results[-1][:9]) if results else 0
        if not 1 <= rating <= self._ratings:
            raise Lost("unreadable", f"the judge's answer does not end with [RESULT] and 1 to {self._ratings}")
        return float(self._ratings - rating)
