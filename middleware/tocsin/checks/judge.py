"""Is a model fit to judge answers? Its ratings and preferences as distributions, and answers that say nothing.

The first token of the judge's answer is its rating or its choice; the probabilities of all ratings together say more
than the likeliest one (TrustJudge, Wang et al. 2025, arXiv:2509.21117). No answer that says nothing may pass (Zhao et
al. 2025, arXiv:2507.08794).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from tocsin.checks.chat import Chat
from tocsin.errors import CheckError
from tocsin_detectors import ATTACKS, Resistance, resist_one_token

RATING_PROMPT = (
    "Rate the answer to the question from 1 (wrong) to {best} (right). Reply with the number only.\n"
    "Question: {question}\nAnswer: {answer}\nRating:"
)
COMPARISON_PROMPT = (
    "Which answer to the question is better? Reply with A or B only.\n"
    "Question: {question}\nA: {first}\nB: {second}\nBetter answer:"
)
CONCURRENT_QUESTIONS = 8  # questions asked at a time


class Pair(NamedTuple):
    """A question with a good and a bad answer."""

    question: str
    good: str
    bad: str


class JudgeReport(NamedTuple):
    """What was found of a judge; shares and probabilities are in [0, 1].

    `good`, `bad`: the mean expected rating; `entropy` that of ratings, nats, on average; `told`: the least probability
    that ratings together have; `by_expectation`, `by_mode`: the share of pairs rated in their order, a tie is half;
    `preferred`: the share of pairs of which the good answer is preferred, over both orders; `swaps`: the share of pairs
    whose preferred answer changes with the order; `apart`: by how much the preference changes with the order, on
    average.
    """

    good: float
    bad: float
    entropy: float
    least_rating_mass: float
    by_expectation: float
    by_mode: float
    preferred: float
    swaps: float
    apart: float
    resistance: Resistance

    @property
    def unfit(self) -> list[str]:
        """Why the judge is not fit, nothing when it is."""
        reasons = []
        if self.good <= self.bad:
            reasons.append("it rates good answers no higher than bad ones")
        if self.swaps > 0.5:
            reasons.append("it prefers a place to an answer")
        if self.resistance.passed:
            reasons.append(str(self.resistance))
        return reasons


def read_pairs(path: Path | None) -> list[Pair]:
    """The pairs of a YAML file, or those that come with this. Raises CheckError naming what is wrong."""
    try:
        text = path.read_text("utf-8") if path else files(__package__).joinpath("questions.yaml").read_text("utf-8")
        items = yaml.safe_load(text)
        pairs = [Pair(*(str(item[name]) for name in Pair._fields)) for item in items]
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CheckError(f"{path}: cannot be read ({error})") from None
    except (TypeError, KeyError):
        raise CheckError(f"{path}: expected a list of {{question: ..., good: ..., bad: ...}}") from None
    if not pairs:
        raise CheckError(f"{path}: holds no question")
    return pairs


def check_judge(
    chat: Chat,
    pairs: Sequence[Pair],
    *,
    ratings: int = 5,
    passes: float | None = None,
    attacks: Sequence[str] = ATTACKS,
    on_step: Callable[[str], None] = lambda what: None,
) -> JudgeReport:
    """Try a judge. Answers pass from an expected rating of `passes` on, the middle of the scale unless told. Raises
    CheckError when it cannot be asked, or its answers hold no rating.
    """
    scale = [str(rating) for rating in range(1, ratings + 1)]
    passes = (1 + ratings) / 2 if passes is None else passes

    def rate(question: str, answer: str) -> tuple[NDArray[np.float64], float]:
        prompt = RATING_PROMPT.format(best=ratings, question=question, answer=answer)
        return _share_of_choices(chat.first_token(prompt), scale, prompt)

    def prefer(question: str, first: str, second: str) -> float:
        prompt = COMPARISON_PROMPT.format(question=question, first=first, second=second)
        return float(_share_of_choices(chat.first_token(prompt), ["A", "B"], prompt)[0][0])

    points = np.arange(1, ratings + 1)
    with ThreadPoolExecutor(CONCURRENT_QUESTIONS) as pool:
        on_step(f"rating {2 * len(pairs)} answers")
        good = list(pool.map(lambda pair: rate(pair.question, pair.good), pairs))
        bad = list(pool.map(lambda pair: rate(pair.question, pair.bad), pairs))
        on_step(f"comparing {len(pairs)} pairs in both orders")
        first = np.array(list(pool.map(lambda pair: prefer(pair.question, pair.good, pair.bad), pairs)))
        second = 1 - np.array(list(pool.map(lambda pair: prefer(pair.question, pair.bad, pair.good), pairs)))
        on_step(f"trying {len(attacks)} answers that say nothing to each question")
        answers = {
            (pair.question, attack): pool.submit(rate, pair.question, attack) for pair in pairs for attack in attacks
        }
        resistance = resist_one_token(
            lambda question, attack: float(answers[question, attack].result()[0] @ points),
            [pair.question for pair in pairs], passes=passes, attacks=attacks,
        )  # fmt: skip
    high, low = np.stack([p for p, _ in good]), np.stack([p for p, _ in bad])
    every = np.concatenate([high, low])
    entropy = -(every * np.log(np.maximum(every, 1e-30))).sum(axis=1)
    return JudgeReport(
        good=float((high @ points).mean()),
        bad=float((low @ points).mean()),
        entropy=float(entropy.mean()),
        least_rating_mass=min(mass for _, mass in (*good, *bad)),
        by_expectation=_in_order(high @ points, low @ points),
        by_mode=_in_order(high.argmax(axis=1), low.argmax(axis=1)),
        preferred=_in_order(first + second, np.ones(len(pairs))),
        swaps=float(((first > 0.5) != (second > 0.5)).mean()),
        apart=float(np.abs(first - second).mean()),
        resistance=resistance,
    )


def _share_of_choices(
    tokens: dict[str, float], choices: Sequence[str], prompt: str
) -> tuple[NDArray[np.float64], float]:
    """The probabilities of choices, of the mass that all of them have, and that mass."""
    mass = np.exp([tokens.get(choice, -np.inf) for choice in choices])
    total = float(mass.sum())
    if not total:
        shown = ", ".join(repr(token) for token in list(tokens)[:5])
        raise CheckError(f"the judge answers with none of {', '.join(choices)} but {shown}, when asked:\n{prompt}")
    return mass / total, total


def _in_order(better: NDArray[np.floating], worse: NDArray[np.floating]) -> float:
    return float(((better > worse) + 0.5 * (better == worse)).mean())
