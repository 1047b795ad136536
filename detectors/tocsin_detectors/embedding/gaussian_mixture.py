"""Density of a Gaussian mixture."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from tocsin_detectors.detector import fitted
from tocsin_detectors.errors import SignalError
from tocsin_detectors.perceptron import Scaling

if TYPE_CHECKING:
    from spox import Var

    from tocsin_detectors.observation import FittingData

Float64 = NDArray[np.float64]
SAMPLE = 50_000  # rows that the mixture is fitted on


class GaussianMixture:
    """-log sum_k w_k N(x; m_k, S_k), in nats: how improbable an embedding is under a mixture fitted to safe ones.

    Reads an embedding, (n, D), standardised by the fitting data. Learns weights, means and full covariances of
    `components` Gaussians by expectation maximisation, on up to 50,000 responses. Works for a few elongated clusters
    in tens of dimensions; needs many more rows than dimensions in each.

    Source: Dempster, Laird and Rubin (1977), doi:10.1111/j.2517-6161.1977.tb01600.x; as a novelty detector,
    Bishop (1994), doi:10.1049/ip-vis:19941330.
    """

    name: ClassVar[str] = "gaussian_mixture"
    source: ClassVar[str] = "Dempster, Laird and Rubin 1977; Bishop 1994, doi:10.1049/ip-vis:19941330"

    def __init__(self, signal: str = "embedding", *, components: int = 5) -> None:
        if components < 1:
            raise ValueError(f"components must be at least 1, not {components}")
        self.reads = (signal,)
        self.components = components
        self._scaling: Scaling | None = None
        self._precision, self._offset = np.zeros((0, 0, 0)), np.zeros((0, 0))  # (K, D, D), (K, D)
        self._logs = np.zeros(0)  # (K,): log weights and normalising constants

    def fit(self, safe: FittingData, *, seed: int = 0) -> Self:
        """Fit the mixture. Raises SignalError when rows do not vary or are fewer than twice the components."""
        from sklearn.mixture import GaussianMixture as Mixture

        signal = self.reads[0]
        if safe.rows < 2 * self.components:
            raise SignalError(f"gaussian_mixture needs {2 * self.components} rows of '{signal}', not {safe.rows}")
        scaling = Scaling.of(safe, signal)
        rows = (safe.sample(SAMPLE, seed=seed)[signal] - scaling.mean) / scaling.scale
        mixture = Mixture(self.components, reg_covar=1e-3, random_state=seed, n_init=1, max_iter=200).fit(rows)
        self._precision = mixture.precisions_cholesky_
        self._offset = -np.einsum("kd,kde->ke", mixture.means_, self._precision)
        determinant = np.log(np.diagonal(self._precision, axis1=1, axis2=2)).sum(axis=1)
        width = rows.shape[1]
        scale = np.log(scaling.scale).sum()
        self._logs = np.log(mixture.weights_) + determinant - 0.5 * width * np.log(2 * np.pi) - scale
        self._scaling = scaling
        return self

    def graph(self, *signals: Var) -> Var:
        """(n, D) -> (n, 1)."""
        import spox.opset.ai.onnx.v18 as op

        mean, scale = (op.const(part.astype(np.float32)) for part in fitted(self._scaling, self.name))
        standard = op.div(op.sub(signals[0], mean), scale)
        components, width, _ = self._precision.shape
        side_by_side = self._precision.transpose(1, 0, 2).reshape(width, components * width)
        white = op.gemm(
            standard, op.const(side_by_side.astype(np.float32)), op.const(self._offset.ravel().astype(np.float32))
        )
        apart = op.reshape(white, op.const(np.array([0, components, width])))
        squared = op.reduce_sum_square(apart, op.const(np.array([2])), keepdims=0)
        logs = op.sub(op.const(self._logs.astype(np.float32)), op.mul(squared, op.const(np.float32(0.5))))
        return op.neg(op.reduce_log_sum_exp(logs, op.const(np.array([1])), keepdims=1))
