"""Action-chunk entropy."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from tocsin_detectors.actions.cells import count_logs, multiples
from tocsin_detectors.actions.samples import Chunks
from tocsin_detectors.detector import fitted
from tocsin_detectors.errors import SaturationWarning

if TYPE_CHECKING:
    from spox import Var

    from tocsin_detectors.observation import FittingData

NARROW, WIDE = 0.03, 0.5  # cell widths to choose from, as shares of a dimension's range; the first is FIPER's
ROOM = 0.5  # the share of the largest entropy that safe responses may take up
PADDING = 0.01  # of a batch's own range, below its smallest value
SAMPLE = 1_000  # responses looked at to choose a cell width


class ActionChunkEntropy:
    """ACE: the entropy of S sampled actions over cells of a grid, averaged over the steps of the chunk; bits, >= 0.

    Reads sampled action chunks, (n, S, H, A), at most log2 S bits. At each step the S points fall into cells of a grid
    that starts at their own minimum, less 1% of their range. Learns the cell width of each dimension: `factor` times
    the range over safe responses. FIPER's factor is 0.03; with it 0 or not given, the smallest of 0.03, 0.06, ... 0.48
    is taken that leaves safe responses (95% of them) under half of log2 S, chosen on the fitting data alone. Warns when
    none does, since an entropy that is always the largest tells nothing; `per_dimension` then helps: the sum of the
    entropies of single dimensions, at most A log2 S.

    Flat signals need `samples` and `steps`. Costs at most sorting H times S numbers a response
    (A times as many with `per_dimension`); a table does where cells are few.

    Source: FIPER, Römer et al. (2025), arXiv:2510.09459.
    """

    name: ClassVar[str] = "ace"
    source: ClassVar[str] = "FIPER, Römer et al. 2025, arXiv:2510.09459"

    def __init__(
        self,
        signal: str = "actions",
        *,
        factor: float = 0.0,
        per_dimension: bool = False,
        samples: int = 0,
        steps: int = 0,
    ) -> None:
        if factor < 0:
            raise ValueError(f"factor must be above 0, or 0 to choose it, not {factor}")
        self.reads = (signal,)
        self.factor, self.per_dimension = factor, per_dimension
        self.samples, self.steps = samples, steps
        self._chunks: Chunks | None = None
        self._cells = np.zeros(0)  # (A,)

    def fit(self, safe: FittingData, *, seed: int = 0) -> Self:
        """Choose the cells. Raises SignalError when there is one sample, or no dimension moves."""
        signal = self.reads[0]
        chunks = Chunks.of(safe, signal, self.samples, self.steps)
        ranges = chunks.ranges(safe, signal)
        largest = np.log2(chunks.samples) * (chunks.dimensions if self.per_dimension else 1)
        some = safe.sample(SAMPLE, seed=seed)[signal].astype(np.float64).reshape(-1, *chunks)
        factor = self.factor or NARROW
        usual = self._usual(some, factor * ranges)
        while not self.factor and usual > ROOM * largest and 2 * factor < WIDE:
            factor *= 2
            usual = self._usual(some, factor * ranges)
        if usual > 0.9 * largest:
            warnings.warn(
                f"ace: safe responses reach {usual:.1f} of {largest:.1f} bits with cells of {factor:g} of the range, "
                f"which leaves no room for failures; set per_dimension, or sample more actions",
                SaturationWarning,
                stacklevel=2,
            )
        self._chunks, self._cells = chunks, factor * ranges
        return self

    def _usual(self, actions: NDArray[np.float64], cells: NDArray[np.float64]) -> float:
        """The 95th percentile of the score of (n, S, H, A)."""
        return float(np.percentile([self._score(chunk, cells) for chunk in actions], 95))

    def _score(self, chunk: NDArray[np.float64], cells: NDArray[np.float64]) -> float:
        low, high = chunk.min(axis=0), chunk.max(axis=0)
        indices = np.floor((chunk - (low - PADDING * (high - low))) / cells).astype(int)  # (S, H, A)
        views = np.moveaxis(indices, 2, 0)[..., None] if self.per_dimension else indices[None]  # (views, S, H, ...)
        bits = [_entropy(view[:, step]) for view in views for step in range(view.shape[1])]
        return float(np.sum(bits) / chunk.shape[1])

    def graph(self, *signals: Var) -> Var:
        """(n, S H A) -> (n, 1)."""
        import spox.opset.ai.onnx.v18 as op

        chunks = fitted(self._chunks, self.name)
        columns = chunks.steps * chunks.dimensions
        actions = op.reshape(signals[0], op.const(np.array([0, chunks.samples, columns])))
        first = op.const(np.array([1]))
        low, high = op.reduce_min(actions, first, keepdims=1), op.reduce_max(actions, first, keepdims=1)
        start = op.sub(low, op.mul(op.sub(high, low), op.const(np.float32(PADDING))))
        cells = op.const(np.tile(self._cells, chunks.steps).astype(np.float32))
        indices, highest = (op.floor(op.div(op.sub(values, start), cells)) for values in (actions, high))
        groups, width = (columns, 1) if self.per_dimension else (chunks.steps, chunks.dimensions)
        logs = op.reduce_sum(count_logs(indices, highest, chunks.samples, groups, width), first, keepdims=1)
        share = op.mul(logs, op.const(np.float32(1 / (np.log(2) * chunks.samples * chunks.steps))))
        return op.sub(op.const(np.float32(np.log2(chunks.samples) * groups / chunks.steps)), share)


def _entropy(cells: NDArray[np.intp]) -> float:
    """In bits, of the distribution of rows (S, A) over equal ones, told apart as in the graph."""
    _, counts = np.unique(cells @ multiples(cells.shape[1]), return_counts=True)
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum())
