"""Entropy of a judge's rating."""

from __future__ import annotations

from typing import ClassVar

from tocsin_detectors.confidence.entropy import Entropy


class JudgeEntropy(Entropy):
    """-sum_r p_r log p_r, in nats, in [0, log R]: how undecided a judge is about its rating.

    Reads the probabilities of the ratings, (n, R). Nothing is learnt. An undecided judge's verdict says little,
    whatever its expectation; a judge that is always sure is not thereby right.

    Source: Wang et al. (2025), TrustJudge, arXiv:2509.21117.
    """

    name: ClassVar[str] = "judge_entropy"
    source: ClassVar[str] = "TrustJudge, Wang et al. 2025, arXiv:2509.21117"

    def __init__(self, signal: str = "rating_probs") -> None:
        super().__init__(signal)
