"""Asks every opinion about one answer, and combines their scores where that is configured."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tocsin.opinions.log_sigmoid import LogSigmoid
from tocsin.opinions.lost import Lost
from tocsin.opinions.opinion import ChatModel, Opinion
from tocsin.protocols.texts import Conversation


def opinion_scores(
    opinions: Mapping[str, Opinion | LogSigmoid],
    judge: ChatModel,
    conversation: Conversation,
    lose: Callable[[str, Lost], None],
) -> dict[str, float]:
    """The scores of the opinions that a judge gives, by name. `lose` gets the others, with the reason: a combined one
    is lost for the reason of the first of its parts that is.
    """
    scores: dict[str, float] = {}
    lost: dict[str, Lost] = {}
    for name, opinion in opinions.items():
        if isinstance(opinion, LogSigmoid):
            continue
        try:
            scores[name] = opinion.ask(judge, conversation)
        except Lost as why:
            lost[name] = why
            lose(name, why)
    for name, opinion in opinions.items():
        if not isinstance(opinion, LogSigmoid):
            continue
        missing = [part for part in opinion.parts if part not in scores]
        if missing:
            first = lost[missing[0]]
            lose(name, Lost(first.reason, f"{missing[0]}: {first}"))
        else:
            scores[name] = opinion.combine(scores)
    return {name: scores[name] for name in opinions if name in scores}
