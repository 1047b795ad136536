"""Multilayer perceptrons: built in torch for fitting, kept as arrays, written as ONNX with their scaling folded in."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tocsin_detectors.moments import moments, units_of
from tocsin_detectors.observation import FittingData

if TYPE_CHECKING:
    import torch
    from spox import Var

Layer = tuple[NDArray[np.float32], NDArray[np.float32]]  # weights (in, out), bias (out,)


class Scaling(NamedTuple):
    """Standardisation by the fitting data: (x - mean) / scale, each (D,)."""

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]

    @classmethod
    def of(cls, safe: FittingData, signal: str) -> Scaling:
        """Raises SignalError when the signal is not finite or does not vary."""
        statistics = moments(safe, signal)
        return cls(statistics.mean, units_of(statistics.mean, statistics.deviation))

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and scale, float32."""
        import torch

        return torch.from_numpy(self.mean.astype(np.float32)), torch.from_numpy(self.scale.astype(np.float32))

    def absorbed(self, layers: list[Layer]) -> list[Layer]:
        """The layers of a network that takes standardised rows, as ones that take rows as they are."""
        (weights, bias), *rest = layers
        scaled = weights / self.scale[:, None]
        return [(scaled.astype(np.float32), (bias - self.mean @ scaled).astype(np.float32)), *rest]


def perceptron(*sizes: int) -> torch.nn.Sequential:
    """Linear layers of these sizes, input first, with ReLU between them."""
    from torch import nn

    linear = [nn.Linear(a, b) for a, b in pairwise(sizes)]
    return nn.Sequential(*(part for layer in linear[:-1] for part in (layer, nn.ReLU())), linear[-1])


def layers_of(network: torch.nn.Sequential) -> list[Layer]:
    """The weights and biases of a perceptron, copied."""
    state = [p.detach().numpy().copy() for p in network.parameters()]
    return [(np.ascontiguousarray(w.T), b) for w, b in zip(state[::2], state[1::2], strict=True)]


def forward(layers: list[Layer], x: Var) -> Var:
    """(n, D) -> (n, outputs), as ONNX."""
    import spox.opset.ai.onnx.v18 as op

    for weights, bias in layers[:-1]:
        x = op.relu(op.gemm(x, op.const(weights), op.const(bias)))
    return op.gemm(x, op.const(layers[-1][0]), op.const(layers[-1][1]))
