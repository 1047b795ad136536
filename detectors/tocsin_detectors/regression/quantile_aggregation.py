"""Quantiles of several models, aggregated."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from tocsin_detectors.axes import axes_of
from tocsin_detectors.detector import fitted
from tocsin_detectors.errors import SignalError
from tocsin_detectors.training import Training, seeded, train

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from spox import Var

    from tocsin_detectors.fitting import FittingData


class QuantileAggregation:
    """q_high - q_low, in the target's unit, of the quantiles that several models predict together.

    Reads the quantiles of M models at Q levels, (n, M, Q), lowest level first. The aggregate at level t is
    sum_i w_i(t) q_i(t), with weights that are positive and sum to 1 at each level, fitted to the true values, `target`,
    (n, 1), by the pinball loss averaged over levels; levels that cross are sorted. Levels are `lowest` to `highest`,
    evenly spaced. Better than any one model where each is right at its own levels; the weights are the same for all
    inputs. Flat signals need `models`, M.

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
        epochs: int = 250,
    ) -> None:
        if not 0 < lowest < highest < 1:
            raise ValueError(f"levels must rise within (0, 1), not from {lowest} to {highest}")
        self.reads, self.fits_on = (signal,), (target,)
        self.lowest, self.highest, self.models = lowest, highest, models
        self.training = Training(epochs=epochs, learning_rate=0.05)
        self.weights: NDArray[np.float64] | None = None
        """Learnt, (M, Q)."""

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
        with seeded(seed):
            module = torch.nn.ParameterList([torch.zeros(models, levels)])

            def loss(quantiles: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
                weights = torch.softmax(module[0], dim=0)
                gap = target - (quantiles.reshape(-1, models, levels) * weights).sum(dim=1)
                return torch.maximum(at * gap, (at - 1) * gap).mean()

            train(module, loss, safe, signals, self.training, seed=seed)
            self.weights = torch.softmax(module[0], dim=0).detach().numpy().astype(np.float64)
        return self

    def graph(self, *signals: Var) -> Var:
        """(n, M Q) -> (n, 1). The outermost of the sorted levels are the largest and the smallest."""
        import spox.opset.ai.onnx.v18 as op

        weights = fitted(self.weights, self.name)
        quantiles = op.reshape(signals[0], op.const(np.array([0, *weights.shape])))
        one = op.const(np.array([1]))
        together = op.reduce_sum(op.mul(quantiles, op.const(weights.astype(np.float32))), one, keepdims=0)
        return op.sub(op.reduce_max(together, one, keepdims=1), op.reduce_min(together, one, keepdims=1))
