"""Temperature scaling."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from tocsin_detectors.confidence.evidence import require_logits
from tocsin_detectors.detector import fitted
from tocsin_detectors.errors import SignalError

if TYPE_CHECKING:
    from spox import Var

    from tocsin_detectors.observation import FittingData

LOWEST, HIGHEST = 0.05, 100.0


class TemperatureScaling:
    """1 - max_c softmax(z / T)_c, in [0, 1 - 1/C]: the calibrated chance that the answer is wrong.

    Reads logits, (n, C). Learns T > 0 by maximum likelihood from true classes, the signal `label`, (n, 1), integers
    from 0, where the fitting data has it; else give `temperature`. Orders responses otherwise than max_softmax does
    as soon as C > 2, and says how likely a wrong answer is. Knows nothing about inputs of no class at all.

    Source: Guo, Pleiss, Sun and Weinberger (2017), arXiv:1706.04599.
    """

    name: ClassVar[str] = "temperature_scaling"
    source: ClassVar[str] = "Guo et al. 2017, arXiv:1706.04599"
    resolution: ClassVar[float] = 2.0**-30

    def __init__(self, signal: str = "logits", label: str = "label", *, temperature: float = 0.0) -> None:
        if temperature < 0:
            raise ValueError(f"temperature must be above 0, or 0 to learn it, not {temperature}")
        self.reads, self.fits_on = (signal,), (label,)
        self.temperature = temperature
        self._fitted: float | None = None

    def fit(self, safe: FittingData, *, seed: int = 0) -> Self:
        """Find T. Raises SignalError when the signal holds no logits, or there are neither labels nor a temperature."""
        del seed
        require_logits(safe, self.reads[0], "max_softmax")
        if self.temperature:
            self._fitted = self.temperature
        elif self.fits_on[0] in safe.names():
            self._fitted = self._most_likely(safe)
        else:
            raise SignalError(
                f"temperature_scaling learns from the true classes, but there is no signal '{self.fits_on[0]}'; add "
                f"it, or give a temperature"
            )
        return self

    def _most_likely(self, safe: FittingData) -> float:
        """The loss is convex in 1/T: halve the interval in which its slope changes sign."""
        low, high = 1 / HIGHEST, 1 / LOWEST
        for _ in range(40):
            middle = float((low * high) ** 0.5)
            if self._slope(safe, middle) > 0:
                high = middle
            else:
                low = middle
        return float(1 / (low * high) ** 0.5)

    def _slope(self, safe: FittingData, sharpness: float) -> float:
        """Of the negative log-likelihood, with respect to 1/T: expected logit minus that of the true class."""
        slope = 0.0
        for logits, labels in safe.finite(self.reads[0], self.fits_on[0]):
            true = labels[:, 0].astype(int)
            if (true != labels[:, 0]).any() or true.min() < 0 or true.max() >= logits.shape[1]:
                raise SignalError(f"signal '{self.fits_on[0]}' must hold classes 0 to {logits.shape[1] - 1}")
            scaled = sharpness * (logits - logits.max(axis=1, keepdims=True))
            probs = np.exp(scaled) / np.exp(scaled).sum(axis=1, keepdims=True)
            slope += float((probs * logits).sum() - logits[np.arange(len(true)), true].sum())
        return slope

    def graph(self, *signals: Var) -> Var:
        """(n, C) -> (n, 1)."""
        import spox.opset.ai.onnx.v18 as op

        sharpness = op.const(np.float32(1 / fitted(self._fitted, self.name)))
        probs = op.softmax(op.mul(signals[0], sharpness), axis=1)
        return op.sub(op.const(np.float32(1)), op.reduce_max(probs, op.const(np.array([1])), keepdims=1))
