"""Claims about several opinions as one score: its value, its promise, and what becomes of a lost part."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import betabinom

from tocsin.configuration.opinions import LogSigmoidConfig, LogSigmoidPart
from tocsin.configuration.second_opinion import SecondOpinionConfig
from tocsin.opinions.log_sigmoid import LogSigmoid, part_of
from tocsin.opinions.lost import Lost
from tocsin.opinions.opinion_scores import opinion_scores
from tocsin.protocols.texts import Conversation
from tocsin_calibration import calibrate

PARTS = {"rating": {"center": 1.0, "scale": 0.5}, "checks": {"center": 0.2, "scale": 0.1}}
ABOUT = Conversation("q", "a")


def combined(**parts: Any) -> LogSigmoid:
    return LogSigmoid(LogSigmoidConfig.model_validate({"kind": "log_sigmoid", "of": parts or PARTS}))


class Says:
    """An opinion with that score, or that is lost."""

    kind, source = "rating", ""

    def __init__(self, score: float | None) -> None:
        self._score = score

    def ask(self, judge: Any, conversation: Conversation) -> float:
        del judge, conversation
        if self._score is None:
            raise Lost("timeout", "the judge did not answer within 30 s")
        return self._score


def test_the_score_is_minus_the_log_of_all_being_good() -> None:
    score = combined().combine({"rating": 2.0, "checks": 0.1})
    probability = 1 / (1 + math.exp(2.0)) / (1 + math.exp(-1.0))
    assert score == pytest.approx(-math.log(probability))
    assert combined().combine({"rating": 1e6, "checks": -1e6}) == pytest.approx((1e6 - 1) / 0.5)  # no overflow


def test_a_part_has_the_median_and_the_spread_of_its_scores() -> None:
    uniforms = (np.arange(20_000) + 0.5) / 20_000
    part = part_of((3.0 + 0.25 * np.log(uniforms / (1 - uniforms))).tolist())
    assert part is not None
    assert (part.center, part.scale) == (pytest.approx(3.0, abs=1e-3), pytest.approx(0.25, abs=1e-3))
    assert part_of([1.0] * 9) is None


def test_a_lost_part_loses_the_sum_for_its_reason() -> None:
    lost: dict[str, str] = {}

    def lose(name: str, why: Lost) -> None:
        lost[name] = f"{why.reason}: {why}"

    opinions = {"both": combined(), "rating": Says(2.0), "checks": Says(0.1)}
    scores = opinion_scores(opinions, None, ABOUT, lose)  # type: ignore[arg-type]
    assert list(scores) == ["both", "rating", "checks"] and not lost
    opinions["checks"] = Says(None)
    assert opinion_scores(opinions, None, ABOUT, lose) == {"rating": 2.0}  # type: ignore[arg-type]
    assert lost["both"].startswith("timeout: checks: ") and lost["checks"].startswith("timeout: ")


def test_the_promise_of_dependent_opinions_holds_by_its_exact_law() -> None:
    """One calibration, many fresh answers: alarms are Beta-Binomial, whatever the dependence between opinions."""
    rng = np.random.default_rng(29)
    n, fresh, alpha = 500, 20_000, 0.05

    def drawn(count: int) -> np.ndarray[Any, Any]:
        common = rng.gamma(2.0, size=count)
        ratings, checks = common + 0.3 * rng.normal(size=count), np.exp(-common) + 0.05 * rng.normal(size=count)
        of = combined()
        pairs = zip(ratings.tolist(), checks.tolist(), strict=True)
        return np.array([[of.combine({"rating": a, "checks": b})] for a, b in pairs])

    promise = calibrate(drawn(n), {"critical": alpha}, detectors=["both"], on_average=True)
    law = promise.laws["critical"]
    alarms = sum(severity is not None for severity in promise.judge(drawn(fresh).astype(np.float32)).severities)
    counts = betabinom(fresh, law.n + 1 - law.k, law.k)
    assert law.mean_rate <= alpha
    assert counts.cdf(alarms) > 5e-5 and counts.sf(alarms - 1) > 5e-5


@pytest.mark.parametrize(
    ("of", "problem"),
    [
        ({"rating": PARTS["rating"], "tone": PARTS["checks"]}, "'tone' is no opinion that is asked"),
        ({"rating": PARTS["rating"], "both": PARTS["checks"]}, "'both' is no opinion that is asked"),
        ({"rating": PARTS["rating"]}, "at least 2"),
        ({"rating": {"center": 0.0, "scale": 0.0}, "checks": PARTS["checks"]}, "greater than 0"),
    ],
)
def test_what_cannot_be_combined_is_refused(of: dict[str, Any], problem: str) -> None:
    opinions = {
        "rating": {"kind": "rating"}, "checks": {"kind": "checklist", "questions": ["Is it true?"]},
        "both": {"kind": "log_sigmoid", "of": of},
    }  # fmt: skip
    with pytest.raises(ValueError, match=problem):
        SecondOpinionConfig.model_validate({"judge": {"url": "http://j", "model": "j"}, "opinions": opinions})
    assert LogSigmoidPart(center=0.0, scale=1.0).scale == 1.0
