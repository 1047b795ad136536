"""Split-point self-consistency of a regression."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from tocsin_detectors.detector import fitted
from tocsin_detectors.errors import SignalError
from tocsin_detectors.perceptron import Layer, Scaling, forward, layers_of, perceptron
from tocsin_detectors.training import Training, seeded, train

if TYPE_CHECKING:
    import torch
    from spox import Var

    from tocsin_detectors.observation import FittingData


class SplitPointRegression:
    """|2 a b - m (a + b)|, in squared units of the target: how far three estimates of the error contradict each other.

    m = E|y - v|, a = E[y - v | y > v] and b = E[v - y | y < v] are predicted by small heads from an embedding, (n, D),
    all that scoring reads. For a mean v they obey 2 a b = m (a + b): m is the harmonic mean of a and b. Where a head
    has learnt what the others have not, they break it. Fitting also looks at the prediction v, (n, 1), and the true
    value y, (n, 1), `target`, and trains the heads by squared error. Shows where the model has seen little; not noise,
    which the heads predict alike.

    Source: SPC-UQ, split-point self-consistency for uncertainty quantification (2025).
    """

    name: ClassVar[str] = "split_point_regression"
    source: ClassVar[str] = "SPC-UQ, split-point self-consistency for uncertainty quantification, 2025"

    def __init__(
        self,
        signal: str = "embedding",
        prediction: str = "prediction",
        target: str = "target",
        *,
        hidden: int = 64,
        epochs: int = 250,
    ) -> None:
        self.reads, self.fits_on = (signal,), (prediction, target)
        self.hidden = hidden
        self.training = Training(epochs=epochs)
        self._heads: list[list[Layer]] | None = None
        self._unit = 1.0

    def fit(self, safe: FittingData, *, seed: int = 0) -> Self:
        """Train the three heads. Raises SignalError when predictions or targets are missing, or are always equal."""
        import torch

        signals = (*self.reads, *self.fits_on)
        error, count = 0.0, 0
        for _, v, y in safe.finite(*signals):
            if v.shape[1] != 1 or y.shape[1] != 1:
                raise SignalError(f"signals '{signals[1]}' and '{signals[2]}' must hold one number a response")
            error, count = error + float(np.abs(y - v).sum()), count + len(v)
        if error == 0:
            raise SignalError(f"signal '{signals[1]}' always equals '{signals[2]}'; there is no error to learn")
        unit = error / count
        scaling = Scaling.of(safe, signals[0])
        mean, scale = scaling.tensors()
        with seeded(seed):
            heads = torch.nn.ModuleList(perceptron(len(scaling.mean), self.hidden, 1) for _ in range(3))

            def loss(x: torch.Tensor, v: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
                x, gap = (x - mean) / scale, (y - v) / unit
                middle, above, below = (torch.nn.functional.softplus(head(x)) for head in heads)
                of_above = ((above - gap) ** 2 * (gap > 0)).mean()
                of_below = ((below + gap) ** 2 * (gap < 0)).mean()
                return ((middle - gap.abs()) ** 2).mean() + of_above + of_below

            train(heads, loss, safe, signals, self.training, seed=seed)
        self._heads = [scaling.absorbed(layers_of(head)) for head in heads]
        self._unit = unit
        return self

    def graph(self, *signals: Var) -> Var:
        """(n, D) -> (n, 1)."""
        import spox.opset.ai.onnx.v18 as op

        def softplus(x: Var) -> Var:  # ONNX Runtime has none in double precision
            decay = op.exp(op.neg(op.abs(x)))
            return op.add(op.relu(x), op.log(op.add(op.const(np.float32(1)), decay)))

        m, a, b = (softplus(forward(head, signals[0])) for head in fitted(self._heads, self.name))
        broken = op.sub(op.mul(op.const(np.float32(2)), op.mul(a, b)), op.mul(m, op.add(a, b)))
        return op.mul(op.abs(broken), op.const(np.float32(self._unit**2)))
