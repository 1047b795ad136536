"""Residual of flow matching."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from tocsin_detectors.detector import fitted
from tocsin_detectors.perceptron import Layer, Scaling, forward, layers_of, perceptron
from tocsin_detectors.training import Training, seeded, train

if TYPE_CHECKING:
    import torch
    from spox import Var

    from tocsin_detectors.observation import FittingData


class LogpZO:
    """logpZO: || x + v(x, 0) ||_2^2 for a flow v fitted to carry safe embeddings to noise: what one step leaves over.

    Reads an embedding, (n, D), standardised by the fitting data. v(x_t, t) is a multilayer perceptron trained by flow
    matching, on x_t = (1 - t) x + t z with z standard normal and t uniform, to predict z - x; at t = 0 the best answer
    for a safe embedding is -x, which leaves nothing, and off the data the network has not learnt to say so. Score >= 0,
    without unit; minus twice a log-likelihood of noise, up to a constant. Needs a few hundred rows.

    Source: Xu, Nguyen, Rho et al. (2025), FAIL-Detect, arXiv:2503.08558.
    """

    name: ClassVar[str] = "logpzo"
    source: ClassVar[str] = "FAIL-Detect, Xu et al. 2025, arXiv:2503.08558"

    def __init__(self, signal: str = "embedding", *, hidden: int = 128, epochs: int = 250, patience: int = 25) -> None:
        self.reads = (signal,)
        self.hidden = hidden
        self.training = Training(epochs=epochs, patience=patience)
        self._flow: list[Layer] | None = None  # x -> x + v(x, 0), in standardised units
        self._scaling = Scaling(np.zeros(0), np.zeros(0))

    def fit(self, safe: FittingData, *, seed: int = 0) -> Self:
        """Train the flow. Raises SignalError below 20 rows or when every row is the same."""
        import torch

        self._scaling = scaling = Scaling.of(safe, self.reads[0])
        mean, scale = scaling.tensors()
        width = len(scaling.mean)
        with seeded(seed):
            flow = perceptron(width + 1, self.hidden, self.hidden, width)

            def loss(rows: torch.Tensor) -> torch.Tensor:
                x, z, t = (rows - mean) / scale, torch.randn_like(rows), torch.rand(len(rows), 1)
                return torch.nn.functional.mse_loss(flow(torch.hstack([(1 - t) * x + t * z, t])), z - x)

            train(flow, loss, safe, self.reads, self.training, seed=seed)
        (weights, bias), *rest = layers_of(flow)
        self._flow = scaling.absorbed([(weights[:-1], bias), *rest])  # the last input is t, which is 0
        return self

    def graph(self, *signals: Var) -> Var:
        """(n, D) -> (n, 1)."""
        import spox.opset.ai.onnx.v18 as op

        mean, scale = (op.const(part.astype(np.float32)) for part in self._scaling)
        standard = op.div(op.sub(signals[0], mean), scale)
        residual = op.add(standard, forward(fitted(self._flow, self.name), signals[0]))
        return op.reduce_sum_square(residual, op.const(np.array([1])), keepdims=1)
