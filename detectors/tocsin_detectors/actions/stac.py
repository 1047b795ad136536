"""Disagreement of overlapping action chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from tocsin_detectors.actions.samples import Chunks
from tocsin_detectors.detector import fitted
from tocsin_detectors.errors import SignalError

if TYPE_CHECKING:
    from spox import Var

    from tocsin_detectors.observation import FittingData

SAMPLE = 500  # responses that the kernel's bandwidth is taken from


class OverlapDisagreement:
    """STAC: the squared maximum mean discrepancy, in [0, 2], of two successive chunks' plans for the same steps.

    Reads sampled action chunks and those of the response before, each (n, S, H, A), the earlier ones first planned
    `executed` steps ago: the last H - k steps of the earlier are compared with the first H - k of the later. The kernel
    is Gaussian; its bandwidth is the median distance between safe samples. Works for policies that change their mind
    when they are lost; says nothing on the first response of a session. Flat signals need `samples` and `steps`.

    Distances are Euclidean over the A dimensions as they come, so scores depend on units: a gripper in millimetres
    beside joints in radians is all that counts. Scale the dimensions to comparable ranges, as policies' own
    normalisers do.

    Source: Agia, Sinha, Yang et al. (2024), arXiv:2410.04640; Gretton et al. (2012), JMLR 13.
    """

    name: ClassVar[str] = "stac"
    source: ClassVar[str] = "Agia et al. 2024, arXiv:2410.04640"

    def __init__(
        self,
        signal: str = "actions",
        earlier: str = "previous_actions",
        *,
        executed: int = 1,
        samples: int = 0,
        steps: int = 0,
    ) -> None:
        if executed < 1:
            raise ValueError(f"executed must be at least 1, not {executed}")
        self.reads = (signal, earlier)
        self.executed, self.samples, self.steps = executed, samples, steps
        self._chunks: Chunks | None = None
        self._bandwidth = 1.0

    def fit(self, safe: FittingData, *, seed: int = 0) -> Self:
        """Choose the bandwidth. Raises SignalError when chunks do not overlap or their shapes differ."""
        chunks = Chunks.of(safe, self.reads[0], self.samples, self.steps)
        if Chunks.of(safe, self.reads[1], self.samples, self.steps) != chunks:
            raise SignalError(f"signals '{self.reads[0]}' and '{self.reads[1]}' differ in shape")
        if chunks.steps <= self.executed:
            raise SignalError(f"chunks of {chunks.steps} steps do not overlap after {self.executed} were executed")
        safe.require_finite(*self.reads)
        some = safe.sample(SAMPLE, seed=seed)
        later = some[self.reads[0]].reshape(-1, *chunks)[:, :, : -self.executed]
        earlier = some[self.reads[1]].reshape(-1, *chunks)[:, :, self.executed :]
        both = np.concatenate([later, earlier], axis=1).reshape(len(later), 2 * chunks.samples, -1).astype(np.float64)
        lengths = (both**2).sum(axis=2)
        squared = lengths[:, :, None] + lengths[:, None] - 2 * both @ both.transpose(0, 2, 1)
        usual = float(np.median(squared[:, *np.triu_indices(2 * chunks.samples, 1)]))
        if usual <= 0:
            raise SignalError(f"more than half of the sampled actions in '{self.reads[0]}' are the same")
        self._chunks, self._bandwidth = chunks, usual
        return self

    def graph(self, *signals: Var) -> Var:
        """(n, S H A) twice -> (n, 1)."""
        import spox.opset.ai.onnx.v18 as op

        chunks = fitted(self._chunks, self.name)
        k, steps = self.executed, chunks.steps

        def part(signal: Var, start: int, stop: int) -> Var:
            cut = op.slice(
                chunks.apart(signal), op.const(np.array([start])), op.const(np.array([stop])), op.const(np.array([2]))
            )
            return op.reshape(cut, op.const(np.array([0, chunks.samples, (steps - k) * chunks.dimensions])))

        later, earlier = part(signals[0], 0, steps - k), part(signals[1], k, steps)
        alike = op.add(self._alike(later, later), self._alike(earlier, earlier))
        across = op.mul(self._alike(later, earlier), op.const(np.float32(2)))
        return op.sub(alike, across)

    def _alike(self, a: Var, b: Var) -> Var:
        """The mean kernel between samples (n, S, D) and (n, S, D): (n, 1)."""
        import spox.opset.ai.onnx.v18 as op

        last = op.const(np.array([2]))
        products = op.matmul(a, op.transpose(b, perm=[0, 2, 1]))
        of_a = op.reduce_sum_square(a, last, keepdims=1)
        of_b = op.transpose(op.reduce_sum_square(b, last, keepdims=1), perm=[0, 2, 1])
        squared = op.sub(op.add(of_a, of_b), op.mul(products, op.const(np.float32(2))))
        kernel = op.exp(op.mul(squared, op.const(np.float32(-1 / (2 * self._bandwidth)))))
        return op.reduce_mean(op.flatten(kernel, axis=1), op.const(np.array([1])), keepdims=1)
