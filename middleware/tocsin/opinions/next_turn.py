"""What a user says next about an answer: the reaction in a request, and labels for the answer that it is about."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from typing import NamedTuple

from tocsin.configuration.opinions import NextTurnLabels
from tocsin.opinions.lost import Lost
from tocsin.protocols.texts import Conversation


class NextTurn(NamedTuple):
    """A user's turn, and the answer and the question before it."""

    question: str
    answer: str
    next_turn: str


def next_turn_in(conversation: Conversation) -> NextTurn:
    """The request's last turn, the answer before it, and the user's turn before that, "" where there is none. Raises
    Lost `no_next_turn` where the request does not end with a user's turn after an answer.
    """
    turns = conversation.turns
    if not turns or turns[-1].role != "user":
        raise Lost("no_next_turn", "the request is no conversation that ends with a user's turn")
    answers = [at for at, turn in enumerate(turns) if turn.role == "assistant"]
    if not answers:
        raise Lost("no_next_turn", "no answer comes before the user's turn")
    questions = [turn.text for turn in turns[: answers[-1]] if turn.role == "user"]
    return NextTurn(questions[-1] if questions else "", turns[answers[-1]].text, turns[-1].text)


class AnswerLabels:
    """Labels answers by the scores of the turns that follow them. Safe between threads.

    `label` takes the identifier of a response and whether it was safe. Answers are remembered by a keyed digest of
    themselves and of the user's turn before them, not as text; of equal ones the latest is labelled.
    """

    def __init__(self, settings: NextTurnLabels, label: Callable[[str, bool], object]) -> None:
        self._settings, self._label = settings, label
        self._key = secrets.token_bytes(32)
        self._identifiers: OrderedDict[bytes, str] = OrderedDict()
        self._lock = threading.Lock()

    def remember(self, conversation: Conversation, identifier: str) -> None:
        """An answer was given, whose response has this identifier; "" is none."""
        if not identifier:
            return
        questions = [turn.text for turn in conversation.turns if turn.role == "user"]
        digest = self._digest(questions[-1] if questions else conversation.question, conversation.answer)
        with self._lock:
            self._identifiers[digest] = identifier
            self._identifiers.move_to_end(digest)
            if len(self._identifiers) > self._settings.remember:
                self._identifiers.popitem(last=False)

    def on_score(self, conversation: Conversation, score: float) -> None:
        """The user's turn in this request shows dissatisfaction with probability `score`: label the answer before it,
        where that is remembered. An answer is labelled once.
        """
        if self._settings.safe_at_most < score < self._settings.bad_from:
            return
        preceding = next_turn_in(conversation)
        with self._lock:
            identifier = self._identifiers.pop(self._digest(preceding.question, preceding.answer), None)
        if identifier is not None:
            self._label(identifier, score <= self._settings.safe_at_most)

    def _digest(self, question: str, answer: str) -> bytes:
        digest = blake2b(key=self._key, digest_size=16)
        for text in (question.strip().encode(), answer.strip().encode()):
            digest.update(len(text).to_bytes(8, "big") + text)
        return digest.digest()
