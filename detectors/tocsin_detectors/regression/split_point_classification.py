"""Split-point self-consistency of a classification."""

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


class SplitPointClassification:
    """sum_c |m_c - 2 p_c (1 - p_c)|, in [0, C/2 + 1]: how far a learnt error contradicts the probabilities themselves.

    Reads an embedding, (n, D), and probabilities, (n, C). A small head predicts m_c = E|1{y = c} - p_c| from the
    embedding; a model that knows its classes has m_c = 2 p_c (1 - p_c). Fitting also looks at the true class, `label`,
    (n, 1), integers from 0. Shows overconfidence: probabilities too extreme for the errors made near there.

    Source: SPC-UQ, split-point self-consistency for uncertainty quantification (2025).
    """

    name: ClassVar[str] = "split_point_classification"
    source: ClassVar[str] = "SPC-UQ, split-point self-consistency for uncertainty quantification, 2025"
    resolution: ClassVar[float] = 2.0**-30

    def __init__(
        self,
        signal: str = "embedding",
        probs: str = "probs",
        label: str = "label",
        *,
        hidden: int = 64,
        epochs: int = 250,
    ) -> None:
        self.reads, self.fits_on = (signal, probs), (label,)
        self.hidden = hidden
        self.training = Training(epochs=epochs)
        self._head: list[Layer] | None = None

    def fit(self, safe: FittingData, *, seed: int = 0) -> Self:
        """Train the head. Raises SignalError when labels are missing or no classes of the probabilities."""
        import torch

        signals = (*self.reads, *self.fits_on)
        safe.require_distribution(signals[1])
        classes = safe.width(signals[1])
        for (label,) in safe.finite(signals[2]):
            if label.shape[1] != 1 or (label % 1).any() or label.min() < 0 or label.max() >= classes:
                raise SignalError(f"signal '{signals[2]}' must hold one class a response, 0 to {classes - 1}")
        scaling = Scaling.of(safe, signals[0])
        mean, scale = scaling.tensors()
        with seeded(seed):
            head = perceptron(len(scaling.mean), self.hidden, classes)

            def loss(x: torch.Tensor, p: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
                error = (torch.nn.functional.one_hot(y[:, 0].long(), classes) - p).abs()
                return torch.nn.functional.mse_loss(torch.sigmoid(head((x - mean) / scale)), error)

            train(head, loss, safe, signals, self.training, seed=seed)
        self._head = scaling.absorbed(layers_of(head))
        return self

    def graph(self, *signals: Var) -> Var:
        """(n, D), (n, C) -> (n, 1)."""
        import spox.opset.ai.onnx.v18 as op

        learnt = op.sigmoid(forward(fitted(self._head, self.name), signals[0]))
        spread = op.mul(op.mul(signals[1], op.sub(op.const(np.float32(1)), signals[1])), op.const(np.float32(2)))
        return op.reduce_l1(op.sub(learnt, spread), op.const(np.array([1])), keepdims=1)
