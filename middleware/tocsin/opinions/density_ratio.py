"""How much likelier the answer is by a worse model than by a better one."""

from __future__ import annotations

import os
from typing import ClassVar

from tocsin.configuration.opinions import DensityRatioConfig
from tocsin.opinions.judge_model import JudgeModel
from tocsin.opinions.opinion import ChatModel
from tocsin.opinions.prompt import read_prompt
from tocsin.protocols.texts import Conversation

PROMPT = """User: {question}
Assistant:"""


class DensityRatio:
    """(log p_w(y | x) - log p_s(y | x)) / bytes of y, in nats: how much likelier the answer y to the question x is by a
    worse model w than by the judge s. A byte is the unit because the two may divide the text differently.

    One call of each model, which must echo prompts with their log-probabilities. The worse model is asked whenever the
    judge is, so the judge's budget bounds it, too. The prompt is what comes before the answer. Placeholder: {question}.

    Source: Xu et al. (2024), Customizable Density Ratios, arXiv:2411.02481.
    """

    kind: ClassVar[str] = "density_ratio"
    source: ClassVar[str] = "CDR, Xu et al. 2024, arXiv:2411.02481"

    def __init__(self, config: DensityRatioConfig) -> None:
        self._prompt = read_prompt(config.prompt, PROMPT, ["question"])
        self._worse = JudgeModel(config.worse, config.timeout.total_seconds(), os.environ)

    def ask(self, judge: ChatModel, conversation: Conversation) -> float:
        """The score of an answer. Raises Lost."""
        before = self._prompt.fill(question=conversation.question).rstrip()
        answer = f" {conversation.answer.strip()}"
        better = judge.continuation(before, answer)
        return (self._worse.continuation(before, answer) - better) / len(answer.encode())
