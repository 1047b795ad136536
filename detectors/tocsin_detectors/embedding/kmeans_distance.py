"""Distance to the nearest of k means, after PCA."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from tocsin_detectors.detector import fitted
from tocsin_detectors.errors import SignalError
from tocsin_detectors.moments import moments

if TYPE_CHECKING:
    from spox import Var

    from tocsin_detectors.observation import FittingData

Float64 = NDArray[np.float64]


class KMeansDistance:
    """min_k || P (x - m) - c_k ||_2: how far an embedding's principal components lie from the nearest usual ones.

    Reads an embedding, (n, D). Learns the mean m, the first `components` principal directions P and `clusters`
    centres c_k by mini-batch k-means. Works for safe embeddings in many clusters, cheaply; blind to what lies outside
    the principal directions. Distances are in the embedding's unit, which its dimensions must share. The defaults are
    those of FIPER's baseline; fewer where the data has fewer.

    Source: Lloyd (1982), doi:10.1109/TIT.1982.1056489; as a baseline of failure prediction, FIPER (Römer et al. 2025),
    arXiv:2510.09459.
    """

    name: ClassVar[str] = "kmeans_distance"
    source: ClassVar[str] = "Lloyd 1982, doi:10.1109/TIT.1982.1056489; FIPER, Römer et al. 2025"

    def __init__(self, signal: str = "embedding", *, components: int = 10, clusters: int = 64) -> None:
        if components < 1 or clusters < 1:
            raise ValueError(f"components and clusters must be at least 1, not {components} and {clusters}")
        self.reads = (signal,)
        self.components, self.clusters = components, clusters
        self._project: Float64 | None = None  # (D, components)
        self._mean, self._centres = np.zeros(0), np.zeros((0, 0))

    def fit(self, safe: FittingData, *, seed: int = 0) -> Self:
        """Find directions and centres. Raises SignalError when rows do not vary or are fewer than the clusters."""
        from sklearn.cluster import MiniBatchKMeans

        signal = self.reads[0]
        statistics = moments(safe, signal)
        if safe.rows < self.clusters:
            raise SignalError(f"kmeans_distance needs {self.clusters} rows of '{signal}', not {safe.rows}")
        _, vectors = np.linalg.eigh(statistics.covariance)
        project = vectors[:, ::-1][:, : self.components]
        means = MiniBatchKMeans(self.clusters, random_state=seed, n_init=3, batch_size=1024)
        means.fit((safe.sample(50_000, seed=seed)[signal] - statistics.mean) @ project)
        if safe.rows > 50_000:  # the start came from a sample; now let every response move the centres
            for (batch,) in safe.finite(signal):
                means.partial_fit((batch - statistics.mean) @ project)
        self._mean, self._project, self._centres = statistics.mean, project, means.cluster_centers_
        return self

    def graph(self, *signals: Var) -> Var:
        """(n, D) -> (n, 1)."""
        import spox.opset.ai.onnx.v18 as op

        project = fitted(self._project, self.name)
        columns = op.const(np.array([1]))
        offset = op.const((-self._mean @ project).astype(np.float32))
        parts = op.gemm(signals[0], op.const(project.astype(np.float32)), offset)
        pull = op.const((-2 * self._centres.T).astype(np.float32))
        lengths = op.const((self._centres**2).sum(axis=1).astype(np.float32))
        nearest = op.reduce_min(op.gemm(parts, pull, lengths), columns, keepdims=1)
        squared = op.add(op.reduce_sum_square(parts, columns, keepdims=1), nearest)
        # Rounding may leave the square of a tiny distance a hair below 0.
        return op.sqrt(op.max([squared, op.const(np.float32(0))]))
