"""Random network distillation."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from tocsin_detectors.errors import SignalError

if TYPE_CHECKING:
    import torch
    from spox import Var

    from tocsin_detectors.observation import Observations

Layer = tuple[NDArray[np.float32], NDArray[np.float32]]  # weights (in, out), bias (out,)


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
        self,
        signal: str = "embedding",
        *,
        hidden: int = 128,
        outputs: int = 64,
        epochs: int = 250,
        learning_rate: float = 1e-3,
        patience: int = 25,
    ) -> None:
        self.reads = (signal,)
        self.hidden, self.outputs = hidden, outputs
        self.epochs, self.learning_rate, self.patience = epochs, learning_rate, patience
        self._target: list[Layer] = []
        self._predictor: list[Layer] = []

    def fit(self, safe: Observations, *, seed: int = 0) -> Self:
        """Train the predictor on safe rows. Raises SignalError below 20 rows or when every row is the same."""
        rows = safe.require_finite(self.reads[0])
        if len(rows) < 20:
            raise SignalError(f"rnd needs at least 20 rows of '{self.reads[0]}' to learn from, not {len(rows)}")
        mean, deviation = rows.mean(axis=0, dtype=np.float64), rows.std(axis=0, dtype=np.float64)
        if not deviation.any():
            raise SignalError(f"signal '{self.reads[0]}' is the same in every row; rnd has nothing to learn")
        # A dimension that never moved is measured in the signal's typical deviation: leaving it shows, and safely so.
        scale = np.where(deviation > 1e-6 * deviation.max(), deviation, np.median(deviation[deviation > 0]))
        target, predictor = self._distil(((rows - mean) / scale).astype(np.float32), seed)
        self._target = _absorb_scaling(target, mean, scale)
        self._predictor = _absorb_scaling(predictor, mean, scale)
        return self

    def _distil(self, rows: NDArray[np.float32], seed: int) -> tuple[list[Layer], list[Layer]]:
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            data = torch.from_numpy(rows)[torch.randperm(len(rows))]
            held_out, train = data[: max(2, len(data) // 10)], data[max(2, len(data) // 10) :]
            target, predictor = self._network(data.shape[1]), self._network(data.shape[1])
            optimiser = torch.optim.AdamW(predictor.parameters(), lr=self.learning_rate)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=self.epochs)
            best, best_state, waited = float("inf"), _layers(predictor), 0
            with torch.no_grad():
                aims, held_out_aim = target(train), target(held_out)
            for _ in range(self.epochs):
                for batch in torch.randperm(len(train)).split(256):
                    optimiser.zero_grad()
                    torch.nn.functional.mse_loss(predictor(train[batch]), aims[batch]).backward()
                    optimiser.step()
                schedule.step()
                with torch.no_grad():
                    loss = torch.nn.functional.mse_loss(predictor(held_out), held_out_aim).item()
                if loss < best:
                    best, best_state, waited = loss, _layers(predictor), 0
                elif (waited := waited + 1) >= self.patience:
                    break
            return _layers(target), best_state

    def _network(self, width: int) -> torch.nn.Sequential:
        from torch import nn

        return nn.Sequential(
            nn.Linear(width, self.hidden),
            nn.ReLU(),
            nn.Linear(self.hidden, self.hidden),
            nn.ReLU(),
            nn.Linear(self.hidden, self.outputs),
        )

    def graph(self, *signals: Var) -> Var:
        """(n, D) -> (n, 1)."""
        import spox.opset.ai.onnx.v18 as op

        if not self._target:
            raise SignalError("rnd has not been fitted")

        def run(layers: list[Layer]) -> Var:
            x = signals[0]
            for weights, bias in layers[:-1]:
                x = op.relu(op.gemm(x, op.const(weights), op.const(bias)))
            return op.gemm(x, op.const(layers[-1][0]), op.const(layers[-1][1]))

        return op.reduce_l2(op.sub(run(self._predictor), run(self._target)), op.const(np.array([1])), keepdims=1)


def _layers(network: torch.nn.Sequential) -> list[Layer]:
    state = [p.detach().numpy().copy() for p in network.parameters()]
    return [(np.ascontiguousarray(w.T), b) for w, b in zip(state[::2], state[1::2], strict=True)]


def _absorb_scaling(layers: list[Layer], mean: NDArray[np.float64], scale: NDArray[np.float64]) -> list[Layer]:
    """Fold (x - mean) / scale into the first layer, so that serving does not compute it."""
    (weights, bias), *rest = layers
    scaled = weights / scale[:, None]
    return [(scaled.astype(np.float32), (bias - mean @ scaled).astype(np.float32)), *rest]
