"""Which cell of the drift test a score falls in, ties and all."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tocsin_calibration.online.urn import CELLS, cell_edges, drift_test
from tocsin_calibration.online.watch import EVERY, Watch
from tocsin_calibration.thresholds.ordered import Ordered


class DriftWatch:
    """Watches whether nonconformity scores still rank among the calibration scores (n,) as exchangeable ones do.

    A score that ties with calibration scores is put above or below each with equal chance, by `seed`, so that the ranks
    are uniform whatever the ties. O(1) memory beside the calibration scores.
    """

    def __init__(
        self, calibration: NDArray[np.float64] | Ordered, *, cells: int = CELLS, every: int = EVERY, seed: int = 0
    ) -> None:
        self._calibration = calibration if isinstance(calibration, Ordered) else Ordered.of(calibration)
        n = self._calibration.n
        self._edges = np.asarray(cell_edges(n, cells)[1:-1])
        self._rng = np.random.default_rng(seed)
        self.watch = Watch(drift_test(n, cells), every)

    def add(self, scores: ArrayLike) -> None:
        """Take in new scores (m,)."""
        values = np.asarray(scores, np.float64)
        below, at_most = self._calibration.below(values), self._calibration.at_most(values)
        gaps = below
        if (tied := at_most > below).any():
            gaps = below.copy()
            gaps[tied] = self._rng.integers(below[tied], at_most[tied], endpoint=True)
        cells = np.searchsorted(self._edges, gaps, side="right")
        self.watch.add(np.bincount(cells, minlength=len(self._edges) + 1).tolist())

    def log_evidence(self) -> float:
        """log of the evidence that scores have drifted, log(1/delta) to act on."""
        return self.watch.log_evidence()
