"""E-values from counts: evidence against exchangeability that may be looked at for ever.

Scores of safe responses fall between n calibration scores. Sort the n + 1 gaps into K cells of a_1..a_K gaps. Under
exchangeability each new score lands in any gap with equal chance, and makes one gap two: a Polya urn,

    P(next in cell i | counts c) = (a_i + c_i) / (sum a + sum c).

A sequence's probability then depends on its counts alone, P(c) = prod B-function terms of a Dirichlet-multinomial with
parameters a; so does that under an alternative with other parameters b. E = sum_j w_j P_j(c) / P(c), mixed over
alternatives, is a martingale that starts at 1.

Guarantee: under exchangeability, P(E ever reaches 1/delta) <= delta (Ville 1939), however often it is looked at and
with the calibration set's own luck included. It is a function of K counts: O(1) memory, and replicas add theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import pairwise
from math import exp, lgamma, log, pi
from operator import add, sub

import numpy as np
from numpy.typing import NDArray

from tocsin_calibration.errors import CalibrationError

CELLS = 20  # of the drift test
FLATNESS = (2.0, 5.0, 20.0)  # parameters of its alternatives, the same for each cell
REMEMBERED = 64  # nulls, more than a watch has windows

Counts = Sequence[int]
Float64 = NDArray[np.float64]


class UrnTest:
    """A null urn with cells of these sizes (K,), and alternatives: pairs of trust and parameters (K,)."""

    adds_up = True  # the evidence of windows is a martingale of one filtration, and so is its sum

    def __init__(self, cells: Iterable[float], alternatives: Iterable[tuple[float, Sequence[float]]]) -> None:
        self.cells = tuple(float(size) for size in cells)
        self._null = _Dirichlet(self.cells)
        self._learnt: dict[tuple[int, ...], _Dirichlet] = {}  # nulls of windows that are open, by what came before them
        priors = [(trust, _Dirichlet(tuple(map(float, parameters)))) for trust, parameters in alternatives]
        total = sum(trust for trust, _ in priors)
        self._alternatives = [(log(trust / total), law) for trust, law in priors]

    def log_evalue(self, counts: Counts, before: Counts | None = None) -> float:
        """log E of counts (K,): 0 at the start, large when they do not fit, log(1/delta) to act on.

        `before` (K,) are counts that came earlier and are not held against the promise, only learnt from. Raises
        CalibrationError on negative counts or another K.
        """
        if len(counts) != len(self.cells) or min(counts) < 0:
            raise CalibrationError(f"there must be {len(self.cells)} counts, 0 or more, not {list(counts)}")
        if not self._alternatives:
            return 0.0
        null = self._null_after(before).log_probability(counts)
        logs = [trust + law.log_probability(counts) - null for trust, law in self._alternatives]
        largest = max(logs)
        return largest + log(sum(exp(term - largest) for term in logs))

    def log_evalues(self, counts: NDArray[np.int64], before: NDArray[np.int64]) -> Float64:
        """log E of m streams' counts (m, K) after what came `before` (m, K)."""
        return log_evalues([self], np.zeros(len(counts), np.intp), counts, before)

    @property
    def shape(self) -> tuple[int, int]:
        """How many alternatives, and how many cells."""
        return len(self._alternatives), len(self.cells)

    @cached_property
    def arrays(self) -> tuple[Float64, Float64, Float64]:
        """The alternatives' parameters (A, K), the sums of these (A,), and their trusts and constants (A,), logs."""
        parameters = np.array([law.parameters for _, law in self._alternatives])
        totals = parameters.sum(axis=1)
        constants = np.array([trust for trust, _ in self._alternatives]) + _log_gamma(totals)
        return parameters, totals, constants - _log_gamma(parameters).sum(axis=1)

    def _null_after(self, before: Counts | None) -> _Dirichlet:
        """The law of the cells on safe traffic, given what was counted before."""
        if before is None or not any(before):
            return self._null
        key = tuple(before)
        law = self._learnt.get(key)
        if law is None:
            law = _Dirichlet([a + c for a, c in zip(self.cells, before, strict=True)])
            if len(self._learnt) >= REMEMBERED:
                del self._learnt[next(iter(self._learnt))]  # the oldest
            self._learnt[key] = law
        return law


def drift_test(n: int, cells: int = CELLS) -> UrnTest:
    """Whether scores still rank among n calibration scores as they did: counts are how many fell in each cell.

    `cell_edges` says where the cells are. Any change of the scores' law shows, in either direction, an alarm or not.
    """
    edges = cell_edges(n, cells)
    sizes = [after - before for before, after in pairwise(edges)]
    return UrnTest(sizes, [(1.0, (flat,) * len(sizes)) for flat in FLATNESS])


def cell_edges(n: int, cells: int = CELLS) -> list[int]:
    """The gaps 0..n+1 divided into at most `cells` cells, as even as can be: cell i has gaps edges[i] to edges[i+1]-1.

    Gap r lies above exactly r calibration scores.
    """
    cells = min(cells, n + 1)
    return [round(i * (n + 1) / cells) for i in range(cells + 1)]


class _Dirichlet:
    """Cells' shares of the law Dirichlet(parameters (K,)), whose gamma functions are worked out once."""

    def __init__(self, parameters: Sequence[float]) -> None:
        self.parameters = parameters
        self._total = sum(parameters)
        self._constant = lgamma(self._total)
        self._gammas = [lgamma(parameter) for parameter in parameters]

    def log_probability(self, counts: Counts) -> float:
        """log of the probability of one sequence with these counts (K,)."""
        cells = map(sub, map(lgamma, map(add, self.parameters, counts)), self._gammas)  # 0 where nothing has fallen
        return sum(cells, self._constant - lgamma(self._total + sum(counts)))


def log_evalues(
    tests: Sequence[UrnTest], which: NDArray[np.intp], counts: NDArray[np.int64], before: NDArray[np.int64]
) -> Float64:
    """log E of m streams' counts (m, K) after what came `before` (m, K), each by the test at `which` (m,) of the list.

    The same as `UrnTest.log_evalue`, up to rounding, and many times as fast where there are many; for tests of one
    `shape`, with alternatives.
    """
    parameters, totals, constants = (np.stack(parts)[which] for parts in zip(*(t.arrays for t in tests), strict=True))
    nulls: Float64 = np.array([test.cells for test in tests])[which] + before.astype(np.float64)
    responses: Float64 = counts.sum(axis=1).astype(np.float64)
    null_totals: Float64 = nulls.sum(axis=1)
    null: Float64 = (_log_gamma(nulls + counts) - _log_gamma(nulls)).sum(axis=1)
    null = null + _log_gamma(null_totals) - _log_gamma(null_totals + responses)
    logs = constants + _log_gamma(parameters + counts[:, None]).sum(axis=2) - _log_gamma(totals + responses[:, None])
    largest = logs.max(axis=1)
    return np.asarray(largest + np.log(np.exp(logs - largest[:, None]).sum(axis=1)) - null)


def _log_gamma(values: Float64) -> Float64:
    """log of the gamma function above 0, by Stirling's series at values + 6."""
    shifted, pairs = values + 6.0, values * (values + 5.0)
    product = pairs * (pairs + 4.0) * (pairs + 6.0)  # of values to values + 5
    inverse = 1 / shifted
    square = inverse * inverse
    series = inverse * (1 / 12 - square * (1 / 360 - square / 1260))
    return np.asarray((shifted - 0.5) * np.log(shifted) - shifted + 0.5 * log(2 * pi) + series - np.log(product))
