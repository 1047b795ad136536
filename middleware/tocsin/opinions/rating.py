"""A rating as the probabilities of all ratings."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from tocsin.checks.judge import RATING_PROMPT
from tocsin.configuration.opinions import RatingConfig
from tocsin.opinions.choices import choice_probabilities
from tocsin.opinions.opinion import ChatModel
from tocsin.opinions.prompt import read_prompt
from tocsin.protocols.texts import Conversation


class Rating:
    """R - sum_r r p_r, in [0, R - 1]: how many points the judge's expected rating falls short of the best; or, as
    `score: entropy`, -sum_r p_r log p_r in nats, in [0, log R].

    One call of the judge: the probabilities p_r of the ratings 1 to R as the first token of its answer. Placeholders:
    {answer}, and {question} and {best}, the best rating.

    Source: Wang et al. (2025), TrustJudge, arXiv:2509.21117.
    """

    kind: ClassVar[str] = "rating"
    source: ClassVar[str] = "TrustJudge, Wang et al. 2025, arXiv:2509.21117"

    def __init__(self, config: RatingConfig) -> None:
        self._prompt = read_prompt(config.prompt, RATING_PROMPT, ["answer"], ["question", "best"])
        self._ratings, self._by_entropy = config.ratings, config.score == "entropy"
        self._choices = [[str(rating)] for rating in range(1, config.ratings + 1)]

    def ask(self, judge: ChatModel, conversation: Conversation) -> float:
        """The score of an answer. Raises Lost."""
        prompt = self._prompt.fill(best=self._ratings, **conversation._asdict())
        probabilities = choice_probabilities(judge.first_token(prompt), self._choices)
        if self._by_entropy:
            return float(-(probabilities * np.log(np.maximum(probabilities, 1e-30))).sum())
        return float(self._ratings - probabilities @ np.arange(1, self._ratings + 1))
