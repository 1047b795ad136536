"""Whether the user's next turn shows dissatisfaction with the answer before it."""

from __future__ import annotations

from typing import ClassVar

from tocsin.configuration.opinions import DissatisfactionConfig
from tocsin.opinions.checklist import NO, YES
from tocsin.opinions.choices import choice_probabilities
from tocsin.opinions.next_turn import next_turn_in
from tocsin.opinions.opinion import ChatModel
from tocsin.opinions.prompt import read_prompt
from tocsin.protocols.texts import Conversation

PROMPT = """A user asked: {question}
An assistant answered: {answer}
Then the user said: {next_turn}

Does what the user said then show that the user is dissatisfied with the answer? Reply with yes or no only.
Reply:"""


class Dissatisfaction:
    """p(yes), in [0, 1]: the probability that the request's last turn shows dissatisfaction with the answer before it,
    of the judge's first token being yes or no.

    One call of the judge. Looks at the request alone: the score is about the answer before, not about that of the call
    itself. Placeholders: {next_turn}, and {question} and {answer}, which are those before it. Requests that do not end
    with a user's turn after an answer are lost as `no_next_turn`.

    Source: Wang et al. (2025), DRIFT, arXiv:2510.02341.
    """

    kind: ClassVar[str] = "dissatisfaction"
    source: ClassVar[str] = "DRIFT, Wang et al. 2025, arXiv:2510.02341"

    def __init__(self, config: DissatisfactionConfig) -> None:
        self._prompt = read_prompt(config.prompt, PROMPT, ["next_turn"], ["question", "answer"])

    def ask(self, judge: ChatModel, conversation: Conversation) -> float:
        """The score of the answer before the request's last turn. Raises Lost."""
        prompt = self._prompt.fill(**next_turn_in(conversation)._asdict())
        return float(choice_probabilities(judge.first_token(prompt), [YES, NO])[0])
