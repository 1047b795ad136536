"""What callers of a language model get, token by token: streamed, scored as Tocsin scores it, and drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import openai

from tocsin_calibration import Bundle
from tocsin_detectors import Observations

matplotlib.use("Agg")
import matplotlib.pyplot as plt

NAME, ALTERNATIVES, WINDOW, TOKENS = "smollm2", 5, 4, 24


class Answer(NamedTuple):
    """What a caller got: the tokens with their log-probabilities and alternatives, and why it ended."""

    tokens: list[str]
    logprobs: list[float]
    tops: list[list[float]]
    ended: str


def ask(client: openai.OpenAI, question: str) -> Answer:
    """Stream an answer, with the log-probabilities that the picture needs."""
    tokens, logprobs, tops, ended = [], [], [], ""
    try:
        for event in client.chat.completions.create(
            model=NAME, messages=[{"role": "user", "content": question}], stream=True, max_tokens=TOKENS, temperature=0,
            logprobs=True, top_logprobs=ALTERNATIVES,
        ):  # fmt: skip
            for choice in event.choices:
                for token in (choice.logprobs and choice.logprobs.content) or []:
                    tokens.append(token.token)
                    logprobs.append(token.logprob)
                    tops.append([other.logprob for other in token.top_logprobs])
                ended = choice.finish_reason or ended
    except openai.OpenAIError as error:
        ended = f"{type(error).__name__}: {error}"
    return Answer(tokens, logprobs, tops, ended)


def scored(bundle: Bundle, answer: Answer) -> tuple[Any, Any]:
    """Each token's nonconformity in its window, and p-values, as the relay computes them."""
    promise = bundle.require_promise()
    assert promise.sessions is not None
    session = promise.sessions.start()
    joint, token_pvalues = [], []
    for logprob, top in zip(answer.logprobs, answer.tops, strict=True):
        signals = {"token_logprobs": np.array([[logprob]]), "top_logprobs": np.array([[top]])}
        row = bundle.scorer(Observations({name: signals[name] for name in bundle.scorer.signals}))
        judged = promise.judge(row, sessions=[session])
        joint += judged.joint
        token_pvalues += judged.pvalues
    return joint, token_pvalues


def pvalues(bundle: Bundle, answer: Answer) -> list[float]:
    token_pvalues: list[float] = scored(bundle, answer)[1]
    return token_pvalues or [1.0]


def draw(bundle: Bundle, answers: list[tuple[str, Answer]], path: Path) -> None:
    """Surprisal of each token, and its window's nonconformity with the thresholds."""
    promise = bundle.require_promise()
    figure, axes = plt.subplots(len(answers), 1, figsize=(12, 3.4 * len(answers)), squeeze=False)
    for (question, answer), axis in zip(answers, axes[:, 0], strict=True):
        joint, _ = scored(bundle, answer)
        places = range(len(answer.tokens))
        axis.bar(
            places, [-logprob for logprob in answer.logprobs], color="#9aa7b5", label="surprisal of the token, nats"
        )
        axis.plot(places, joint, color="#1b4f9c", marker="o", label=f"evidence, mean of {WINDOW} tokens")
        for severity, colour in (("warning", "#d98200"), ("critical", "#b3261e")):
            limit = promise.thresholds[severity]
            axis.axhline(
                limit, color=colour, linestyle="--", label=f"{severity}: {promise.alphas[severity]:.0%} of streams"
            )
        axis.set_xticks(
            list(places), [repr(token)[1:-1] for token in answer.tokens], rotation=60, ha="right", fontsize=8
        )
        axis.set_title(question, loc="left", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_ylim(0, max(1.15 * max(promise.thresholds.values()), axis.get_ylim()[1]))
    axes[0, 0].legend(fontsize=8, frameon=False, loc="center right")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
