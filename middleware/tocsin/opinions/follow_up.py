"""How much likelier a displeased user's next turn is than a pleased one's."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from tocsin.configuration.opinions import FollowUpConfig
from tocsin.opinions.opinion import ChatModel
from tocsin.opinions.prompt import read_prompt
from tocsin.protocols.texts import Conversation

PROMPT = """User: {question}
Assistant: {answer}
User:"""


class FollowUp:
    """mean_b log p(b | x, y) - mean_g log p(g | x, y), nats: how much likelier the judge finds displeased next turns b
    than pleased ones g, after the question x and the answer y.

    One call of the judge for each next turn, which must echo prompts with their log-probabilities. The prompt is what
    comes before the user's next turn, in the form that the judge was trained on. Placeholders: {question}, {answer}.

    Source: Zhang et al. (2024), arXiv:2409.13948.
    """

    kind: ClassVar[str] = "follow_up"
    source: ClassVar[str] = "Zhang et al. 2024, arXiv:2409.13948"

    def __init__(self, config: FollowUpConfig) -> None:
        self._prompt = read_prompt(config.prompt, PROMPT, ["answer"], ["question"])
        self._displeased, self._pleased = config.displeased, config.pleased

    def ask(self, judge: ChatModel, conversation: Conversation) -> float:
        """The score of an answer. Raises Lost."""
        before = self._prompt.fill(**conversation._asdict()).rstrip()
        displeased, pleased = (
            np.mean([judge.continuation(before, f" {turn}") for turn in turns])
            for turns in (self._displeased, self._pleased)
        )
        return float(displeased - pleased)
