"""The interface of an opinion: a question to a judge about one answer, whose reply becomes a score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol

from tocsin.protocols.texts import Conversation


class ChatModel(Protocol):
    """A judge. Its methods raise Lost where it does not answer."""

    def first_token(self, prompt: str) -> Mapping[str, float]:
        """Likely first tokens of its answer, without blanks around them, and their log-probabilities in nats."""
        ...

    def text(self, prompt: str, tokens: int) -> str:
        """Its answer of at most so many tokens."""
        ...

    def continuation(self, before: str, text: str) -> float:
        """The log-probability, nats, that it gives to a text as the continuation of another."""
        ...


class Opinion(Protocol):
    """One opinion, made from its settings. `kind` is its name in the configuration, `source` the paper.

    Higher scores are worse. Making one raises ConfigError where a file that it needs cannot be used.
    """

    kind: ClassVar[str]
    source: ClassVar[str]

    def ask(self, judge: ChatModel, conversation: Conversation) -> float:
        """The score of an answer. Raises Lost."""
        ...
