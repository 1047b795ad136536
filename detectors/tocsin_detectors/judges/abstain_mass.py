"""Mass on abstaining."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from tocsin_detectors.confidence.distribution import OfDistribution
from tocsin_detectors.detector import fitted
from tocsin_detectors.errors import SignalError
from tocsin_detectors.nonfinite import showing

if TYPE_CHECKING:
    from spox import Var

    from tocsin_detectors.observation import FittingData


class AbstainMass(OfDistribution):
    """p_idk, in [0, 1]: the probability that the model gives to "I don't know".

    Reads the probabilities of the choices, (n, C), one of them to abstain: the last, unless `choice` says which (from
    0). Nothing is learnt. The model's own word that it does not know; models seldom say so unless trained or asked to.

    Source: the Distributional Correctness Score; Kalai et al. (2025), arXiv:2509.04664.
    """

    name: ClassVar[str] = "abstain_mass"
    source: ClassVar[str] = "Kalai et al. 2025, arXiv:2509.04664"

    def __init__(self, signal: str = "choice_probs", *, choice: int = -1) -> None:
        super().__init__(signal)
        self.choice = choice
        self._choice: int | None = None

    def fit(self, safe: FittingData, *, seed: int = 0) -> Self:
        """Check the signal. Raises SignalError when it holds no distributions or not so many choices."""
        super().fit(safe, seed=seed)
        choices = safe.width(self.reads[0])
        if not -choices <= self.choice < choices:
            raise SignalError(f"signal '{self.reads[0]}' has {choices} choices; there is no choice {self.choice}")
        self._choice = self.choice % choices
        return self

    def graph(self, *signals: Var) -> Var:
        """(n, C) -> (n, 1)."""
        import spox.opset.ai.onnx.v18 as op

        chosen = op.gather(signals[0], op.const(np.array([fitted(self._choice, self.name)])), axis=1)
        return showing(chosen, signals[0])
