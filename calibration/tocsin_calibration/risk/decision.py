"""Serve, flag or abstain: whichever is worth most, from what the user says that right and wrong answers are worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tocsin_calibration.errors import CalibrationError
from tocsin_calibration.risk.correctness import WAYS, Correctness
from tocsin_calibration.risk.dcs import Loads, expected_dcs
from tocsin_calibration.risk.selective import Selective, bounded_risk
from tocsin_detectors.separation import auroc

Float64 = NDArray[np.float64]
Decision = Literal["serve", "flag", "abstain"]


@dataclass(frozen=True, slots=True)
class Costs:
    """In one unit of value: what a right answer earns, a wrong one costs, and a person's look at one costs.

    `review_costs` None: nobody looks. A person who looks finds the wrong answers, and they are not served.
    """

    right_earns: float = 1.0
    wrong_costs: float = 1.0
    review_costs: float | None = None

    def __post_init__(self) -> None:
        Loads(self.right_earns, self.wrong_costs)
        if self.review_costs is not None and self.review_costs < 0:
            raise CalibrationError(f"a review costs 0 or more, not {self.review_costs:g}")

    @property
    def loads(self) -> Loads:
        """The loads of the score."""
        return Loads(self.right_earns, self.wrong_costs)


class WeighedAnswers(NamedTuple):
    """How probable it is that each of n answers is right, what serving it is worth, and what to do."""

    p_correct: Float64  # (n,)
    served: Float64  # (n,) expected DCS
    decisions: list[Decision]


class RiskPolicy:
    """Decides by expected value. `column`: the score that correctness was calibrated on; `idk`: the score that is the
    answer's mass on abstaining (the detector `abstain_mass`), None where answers cannot say so; `selective`: where a
    risk is guaranteed, the score beyond which nothing is served, whatever it is worth.

    Serving is worth the expected DCS, abstaining 0, and flagging what the right answers earn less the review. With
    nobody to review and no mass on abstaining, an answer is served when p_correct > wrong / (right + wrong).
    """

    def __init__(
        self,
        correctness: Correctness,
        column: int,
        idk: int | None = None,
        labelled: int = 0,
        selective: Selective | None = None,
    ) -> None:
        self.correctness = correctness
        self.column, self.idk, self.labelled, self.selective = column, idk, labelled, selective

    def weigh(self, scores: ArrayLike, costs: Costs) -> WeighedAnswers:
        """Of detectors' scores (n, d)."""
        values = np.asarray(scores, np.float64)
        p_correct = self.correctness(values[:, self.column])
        p_idk = np.zeros(len(values)) if self.idk is None else np.clip(values[:, self.idk], 0, 1)
        served = expected_dcs(p_correct, p_idk, costs.loads)
        flagged = np.full(len(values), -np.inf)
        if costs.review_costs is not None:
            flagged = costs.right_earns * p_correct * (1 - p_idk) ** 2 - costs.review_costs
        choice = np.where(served >= np.maximum(flagged, 0), 0, np.where(flagged > 0, 1, 2))
        if self.selective is not None:
            limit = -np.inf if self.selective.threshold is None else self.selective.threshold
            choice[(values[:, self.column] > limit) & (choice == 0)] = 2
        names: tuple[Decision, ...] = ("serve", "flag", "abstain")
        return WeighedAnswers(p_correct, served, [names[at] for at in choice.tolist()])

    def content(self) -> tuple[dict[str, object], dict[str, Float64]]:
        """Facts and arrays for a bundle."""
        facts = {"way": self.correctness.name, "column": self.column, "idk": self.idk, "labelled": self.labelled}
        arrays = {f"risk.{name}": array for name, array in self.correctness.arrays().items()}
        if self.selective is not None:
            threshold = -np.inf if self.selective.threshold is None else self.selective.threshold
            arrays["selective"] = np.array([threshold, self.selective.coverage, self.selective.risk])
        return facts, arrays

    @classmethod
    def from_content(cls, facts: dict[str, object], arrays: dict[str, Float64], detectors: int) -> RiskPolicy:
        """The policy that was written. Raises CalibrationError when it does not fit so many detectors."""
        way, column, idk, labelled = (facts[name] for name in ("way", "column", "idk", "labelled"))
        if way not in WAYS:
            raise CalibrationError(f"has correctness calibrated in the unknown way '{way}'")
        if not isinstance(column, int) or not isinstance(labelled, int) or not isinstance(idk, int | None):
            raise CalibrationError("has a risk policy that garbles its columns")
        if not 0 <= column < detectors or (idk is not None and not 0 <= idk < detectors):
            raise CalibrationError(f"has a risk policy for another graph: {detectors} detectors")
        risk_arrays = {name.removeprefix("risk."): array for name, array in arrays.items() if name.startswith("risk.")}
        selective = None
        if "selective" in arrays:
            threshold, coverage, risk = arrays["selective"].tolist()
            selective = Selective(None if threshold == -np.inf else threshold, coverage, risk)
        return cls(WAYS[str(way)].from_arrays(risk_arrays), column, idk, labelled, selective)


def fit_risk_policy(
    scores: ArrayLike,
    correct: ArrayLike,
    *,
    way: str = "venn_abers",
    column: int | None = None,
    idk: int | None = None,
    seed: int = 0,
    max_error: float | None = None,
    method: str = "crc",
    delta: float = 0.1,
) -> RiskPolicy:
    """A policy from detectors' scores (n, d) of labelled responses and whether they were right (n,).

    Without `column`, a third of the responses, drawn by `seed`, choose the detector that tells wrong answers best, by
    AUROC, and the others calibrate it. `max_error`: also bound the risk of serving wrong answers, by `method` crc
    (share of all responses, on average), ltt or sgr (share of the served ones, with confidence 1 - delta; see
    `selective`). Raises CalibrationError without both right and wrong answers among them.

        >>> import numpy as np
        >>> scores = np.random.default_rng(0).random((900, 1))
        >>> policy = fit_risk_policy(scores, scores[:, 0] < 0.5)
        >>> policy.labelled
        600
    """
    values, right = np.asarray(scores, np.float64), np.asarray(correct, bool)
    if way not in WAYS:
        raise CalibrationError(f"correctness is calibrated by one of {', '.join(WAYS)}, not '{way}'")
    if values.ndim != 2 or len(values) != len(right):
        raise CalibrationError(f"scores (n, d) and labels (n,) are needed, not {values.shape} and {right.shape}")
    if right.all() or not right.any():
        raise CalibrationError("correctness needs labelled responses of both kinds, right and wrong ones")
    rest = np.arange(len(values))
    if column is None:
        order = np.random.default_rng(seed).permutation(len(values))
        chosen, rest = order[: len(order) // 3], order[len(order) // 3 :]
        candidates = [j for j in range(values.shape[1]) if j != idk] or [0]
        column = max(candidates, key=lambda j: _tells(values[chosen, j], right[chosen]))
    selective = None
    if max_error is not None:
        selective = bounded_risk(values[rest, column], ~right[rest], max_error, method, delta)
    return RiskPolicy(WAYS[way].fit(values[rest, column], right[rest]), column, idk, len(rest), selective)


def _tells(scores: Float64, right: NDArray[np.bool_]) -> float:
    return auroc(scores[right], scores[~right]) if right.any() and not right.all() else 0.5
