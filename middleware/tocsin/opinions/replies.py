"""What judges and embedders reply, as an OpenAI-compatible API has it. Whoever they are, a reply is read or is Lost."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tocsin.checks.chat import likeliest_tokens
from tocsin.opinions.lost import Lost

MAX_DIMENSIONS = 16_384  # of an embedding
_MISFITS = (KeyError, IndexError, TypeError, ValueError, ArithmeticError)  # of replies that are built otherwise


def first_tokens(reply: Any) -> Mapping[str, float]:
    """Likely first tokens of a chat completion and their log-probabilities, nats. Raises Lost."""
    try:
        return likeliest_tokens(reply)
    except _MISFITS:
        raise Lost("unreadable", "the judge's answer has no choices[0].logprobs.content[0].top_logprobs") from None


def message_text(reply: Any) -> str:
    """The text of a chat completion. Raises Lost."""
    try:
        content = reply["choices"][0]["message"]["content"]
    except _MISFITS:
        content = None
    if not isinstance(content, str):
        raise Lost("unreadable", "the judge's answer has no text at choices[0].message.content")
    return content


def echoed_logprob(reply: Any, begin: int, end: int) -> float:
    """The summed log-probability, nats, of the tokens that begin at the characters `begin` to `end` of an echoed
    prompt. Raises Lost.
    """
    try:
        logprobs = reply["choices"][0]["logprobs"]
        tokens = zip(logprobs["text_offset"], logprobs["token_logprobs"], strict=True)
        listed = [float(logprob) for offset, logprob in tokens if begin <= offset < end]
    except _MISFITS:
        listed = []
    if not listed or not isfinite(sum(listed)):
        raise Lost("unreadable", "the judge's answer echoes no prompt with choices[0].logprobs.token_logprobs")
    return sum(listed)


def embedding(reply: Any) -> NDArray[np.float32]:
    """The embedding (D,) in a reply, finite and not zero. Raises Lost."""
    try:
        vector = np.array(reply["data"][0]["embedding"], np.float32)
    except _MISFITS:
        vector = np.empty(0, np.float32)
    if vector.ndim != 1 or len(vector) > MAX_DIMENSIONS or not vector.any() or not np.isfinite(vector).all():
        raise Lost("unreadable", "the embedder's answer has no embedding at data[0].embedding")
    return vector
