"""Whether the answer keeps to a persona."""

from __future__ import annotations

from typing import ClassVar

from tocsin.configuration.opinions import PersonaConfig
from tocsin.errors import ConfigError
from tocsin.opinions.checklist import NO, YES
from tocsin.opinions.choices import choice_probabilities
from tocsin.opinions.opinion import ChatModel
from tocsin.opinions.prompt import read_prompt, read_text
from tocsin.protocols.texts import Conversation

PROMPT = """An assistant has to answer in this persona:
{persona}

Question: {question}
Answer: {answer}

Does the answer keep to the persona, and contradict nothing that is said of it? Reply with yes or no only.
Reply:"""


class Persona:
    """p(no), in [0, 1]: the probability that the judge says that the answer does not keep to a persona.

    One call of the judge: the probability of no against yes as the first token. The persona is the text of a file, such
    as who the assistant is, how it speaks, and what it must not claim. Placeholders: {answer}, {persona}, and
    {question}.

    Source: prompt-to-line consistency, Abdulhai et al. (2025), arXiv:2511.00222, by a probability instead of a verdict.
    """

    kind: ClassVar[str] = "persona"
    source: ClassVar[str] = "Abdulhai et al. 2025, arXiv:2511.00222"

    def __init__(self, config: PersonaConfig) -> None:
        self._prompt = read_prompt(config.prompt, PROMPT, ["answer", "persona"], ["question"])
        self._persona = read_text(config.persona).strip()
        if not self._persona:
            raise ConfigError(f"{config.persona}: describes no persona: the file is empty")

    def ask(self, judge: ChatModel, conversation: Conversation) -> float:
        """The score of an answer. Raises Lost."""
        prompt = self._prompt.fill(persona=self._persona, **conversation._asdict())
        return float(choice_probabilities(judge.first_token(prompt), [YES, NO])[1])
