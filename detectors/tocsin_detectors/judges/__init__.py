"""Detectors of what a model judge says, and the check that it cannot be fooled by one token."""

from tocsin_detectors.judges.abstain_mass import AbstainMass
from tocsin_detectors.judges.judge_entropy import JudgeEntropy
from tocsin_detectors.judges.judge_expectation import JudgeExpectation
from tocsin_detectors.judges.one_token import ATTACKS, Resistance, resist_one_token
from tocsin_detectors.judges.order_swap import OrderSwap
from tocsin_detectors.judges.transitivity import Transitivity

__all__ = [
    "ATTACKS",
    "AbstainMass",
    "JudgeEntropy",
    "JudgeExpectation",
    "OrderSwap",
    "Resistance",
    "Transitivity",
    "resist_one_token",
]
