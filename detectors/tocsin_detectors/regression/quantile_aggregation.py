"""Quantiles of several models, aggregated."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from tocsin_detectors.axes import axes_of
from tocsin_detectors.detector import fitted
from tocsin_detectors.errors import SignalError
from tocsin_detectors.perceptron import Layer, Scaling, forward, layers_of, perceptron
from tocsin_detectors.training import Training, seeded, train

if TYPE_CHECKING:
    import torch
    from spox import Var

    from tocsin_detectors.observation import FittingData


class QuantileAggregation:
    """q_high - q_low, in the target's unit, of the quantiles that several models predict together.

    Reads the quantiles of M models at Q levels, (n, M, Q), lowest level first. The aggregate at level t is
    sum_i w_i(t) q_i(t), with weights that are positive and sum to 1 at each level, fitted to the true values, `target`,
    (n, 1), by the pinball loss averaged over levels; levels that cross are sorted. Levels are `lowest` to `highest`,
    evenly spaced. Weights are the same for all inputs, unless `hidden` gives a small network that many units, which
    makes them depend on what the models predict. Better than any one model where each is right at its own levels, or,
    with a network, for its own inputs. Flat signals need `models`, M.

    Source: Fakoor, Kim, Mueller, Smola and Tibshirani (2023), flexible model aggregation for quantile regression,
    arXiv:2103.00083.
    """

    name: ClassVar[str] = "quantile_aggregation"
    source: ClassVar[str] = "Fakoor et al. 2023, arXiv:2103.00083"

    def __init__(
        self,
        signal: str = "model_quantiles",
        target: str = "target",
        *,
        lowest: float = 0.05,
        highest: float = 0.95,
        models: int = 0,
        hidden: int = 0,
        epochs: int = 250,
    ) -> None:
        if not 0 < lowest < highest < 1:
            raise ValueError(f"levels must rise within (0, 1), not from {lowest} to {highest}")
        self.reads, self.fits_on = (signal,), (target,)
        self.lowest, self.highest, self.models = lowest, highest, models
        self.hidden = hidden
        self.training = Training(epochs=epochs, learning_rate=0.005 if hidden else 0.05)
        self._shape: tuple[int, int] | None = None
        self._weigh: list[Layer] = []  # (n, M Q) -> the weights' logarithms, up to a constant, (n, M Q)

    def fit(self, safe: FittingData, *, seed: int = 0) -> Self:
        """Learn the weights. Raises SignalError when there is one model or level, or no target."""
        import torch

        signals = (*self.reads, *self.fits_on)
        models, levels = axes_of(safe, signals[0], models=self.models, levels=0)
        if models < 2 or levels < 2:
            raise SignalError(f"signal '{signals[0]}' has {models} models and {levels} levels; two of each are needed")
        if safe.width(signals[1]) != 1:
            raise SignalError(f"signal '{signals[1]}' must hold one number a response")
        at = torch.linspace(self.lowest, self.highest, levels)
        width = models * levels
        scaling = Scaling.of(safe, signals[0]) if self.hidden else Scaling(np.zeros(width), np.ones(width))
        mean, scale = scaling.tensors()
        with seeded(seed):
            network = perceptron(width, *([self.hidden] if self.hidden else []), width)
            with torch.no_grad():
                network[-1].weight.zero_()
                network[-1].bias.zero_()
            if not self.hidden:
                network[-1].weight.requires_grad_(False)

            def loss(quantiles: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
                logs = network((quantiles - mean) / scale).reshape(-1, models, levels)
                together = (quantiles.reshape(-1, models, levels) * torch.softmax(logs, dim=1)).sum(dim=1)
                return torch.maximum(at * (target - together), (at - 1) * (target - together)).mean()

            train(network, loss, safe, signals, self.training, seed=seed)
            self._weigh = scaling.absorbed(layers_of(network))
        self._shape = models, levels
        return self

    def graph(self, *signals: Var) -> Var:
        """(n, M Q) -> (n, 1). The outermost of the sorted levels are the largest and the smallest."""
        import spox.opset.ai.onnx.v18 as op

        shape = op.const(np.array([0, *fitted(self._shape, self.name)]))
        weights = op.softmax(op.reshape(forward(self._weigh, signals[0]), shape), axis=1)
        axis = op.const(np.array([1]))
        together = op.reduce_sum(op.mul(op.reshape(signals[0], shape), weights), axis, keepdims=0)
        return op.sub(op.reduce_max(together, axis, keepdims=1), op.reduce_min(together, axis, keepdims=1))
