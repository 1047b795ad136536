"""Random network distillation."""

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


class RandomNetworkDistillation:
    """s(x) = || predictor(x) - target(x) ||_2: a network trained to copy a frozen random one fails off the data.

    Reads an embedding or features, (n, D), standardised by the fitting data; the score is a distance between
    outputs, >= 0, without unit. Both networks are multilayer perceptrons of the sizes `hidden`, `hidden`,
    `outputs`. Works for inputs unlike anything seen in fitting, also between clusters; needs a few hundred rows.

    Trained as FIPER does: AdamW, cosine decay, batches of 256, up to `epochs` epochs, and early stopping on a held
    out tenth of the rows. The learning rate is ten times FIPER's because fitting sets here are smaller.

    Source: Burda et al. (2019), arXiv:1810.12894; for failure prediction at run time, FIPER (Römer et al. 2025).
    """

    name: ClassVar[str] = "rnd"
    source: ClassVar[str] = "Burda et al. 2019, arXiv:1810.12894; FIPER, Römer et al. 2025"

    def __init__(
        self, signal: str = "embedding", *, hidden: int = 128, outputs: int = 64, epochs: int = 250, patience: int = 25
    ) -> None:
        self.reads = (signal,)
        self.hidden, self.outputs = hidden, outputs
        self.training = Training(epochs=epochs, patience=patience)
        self._target: list[Layer] | None = None
        self._predictor: list[Layer] = []

    def fit(self, safe: FittingData, *, seed: int = 0) -> Self:
        """Train the predictor on safe rows. Raises SignalError below 20 rows or when every row is the same."""
        import torch

        scaling = Scaling.of(safe, self.reads[0])
        mean, scale = scaling.tensors()
        with seeded(seed):
            sizes = (len(scaling.mean), self.hidden, self.hidden, self.outputs)
            target, predictor = perceptron(*sizes).requires_grad_(False), perceptron(*sizes)

            def distance(rows: torch.Tensor) -> torch.Tensor:
                x = (rows - mean) / scale
                return torch.nn.functional.mse_loss(predictor(x), target(x))

            train(predictor, distance, safe, self.reads, self.training, seed=seed)
        self._target = scaling.absorbed(layers_of(target))
        self._predictor = scaling.absorbed(layers_of(predictor))
        return self

    def graph(self, *signals: Var) -> Var:
        """(n, D) -> (n, 1)."""
        import spox.opset.ai.onnx.v18 as op

        target = fitted(self._target, self.name)
        apart = op.sub(forward(self._predictor, signals[0]), forward(target, signals[0]))
        return op.reduce_l2(apart, op.const(np.array([1])), keepdims=1)
