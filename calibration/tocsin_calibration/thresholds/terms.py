"""What a promise is made on: with confidence for one calibration set, on average over such sets, or on a spoilt one.

Asked for nothing, a promise is for this very calibration set with DEFAULT_CONFIDENCE wherever the scores suffice for
that, alpha by alpha; where they do not it is one on average, and says so.
"""

from __future__ import annotations

from dataclasses import dataclass

from tocsin_calibration.errors import CalibrationError
from tocsin_calibration.thresholds.contaminated import rank_contaminated, required_size_contaminated
from tocsin_calibration.thresholds.pac import rank_pac, required_size_pac
from tocsin_calibration.thresholds.split import rank, required_size

DEFAULT_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Guarantee:
    """What a promise is made on. `confidence`: None promises alpha on average over calibration sets, a number promises
    it for this very one with that confidence. `contaminated`: the share of calibration responses that may be bad.
    `else_average`: alphas that need more scores for the confidence are promised on average.
    """

    confidence: float | None = None
    contaminated: float = 0.0
    else_average: bool = False

    def __post_init__(self) -> None:
        if self.confidence is not None and not 0 < self.confidence < 1:
            raise CalibrationError(f"the confidence must lie strictly between 0 and 1, not {self.confidence}")
        if not 0 <= self.contaminated < 1:
            raise CalibrationError(
                f"the share of bad calibration responses must lie in [0, 1), not {self.contaminated}"
            )
        if self.confidence is not None and self.contaminated:
            raise CalibrationError("a promise with confidence about contaminated calibration is not built: choose one")

    @classmethod
    def chosen(cls, confidence: float | None, on_average: bool, contaminated: float = 0.0) -> Guarantee:
        """The terms of a caller who names a confidence, asks for the average, or does neither.

        Raises CalibrationError when both are asked for.
        """
        if confidence is not None and on_average:
            raise CalibrationError("a promise is made with confidence or on average: choose one")
        if confidence is None and not on_average and not contaminated:
            return cls(DEFAULT_CONFIDENCE, else_average=True)
        return cls(confidence, contaminated)

    def sure(self, n: int, alpha: float) -> float | None:
        """The confidence with which n scores are to keep alpha; None where that is promised on average."""
        if self.confidence is None or (self.else_average and n < required_size_pac(alpha, 1 - self.confidence)):
            return None
        return self.confidence

    def rank(self, n: int, alpha: float) -> int:
        """k of the threshold s_(k). Raises CalibrationError when n is too small."""
        if (sure := self.sure(n, alpha)) is not None:
            return rank_pac(n, alpha, 1 - sure)
        return rank_contaminated(n, alpha, self.contaminated) if self.contaminated else rank(n, alpha)

    def required_size(self, alpha: float) -> int:
        """The smallest n that can carry alpha."""
        if self.confidence is not None and not self.else_average:
            return required_size_pac(alpha, 1 - self.confidence)
        return required_size_contaminated(alpha, self.contaminated) if self.contaminated else required_size(alpha)
