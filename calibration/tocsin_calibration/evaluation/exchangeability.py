"""Whether a recording looks like independent draws, before anything is promised on it.

Four looks at detectors' scores (n, d) in the order of time. Each has a stated probability of seeing something in rows
that are exchangeable:

- `copies`: rows are there k times, as where a file was read k times. Of independent draws from any law, the number of
  times that a value is seen is Poisson with a mean of its own (for a Poisson number of rows), so the chances p_j that
  a value is seen j times, whatever the law of the means, have p_k^2 <= (k+1)/k p_(k-1) p_(k+1) (Cauchy-Schwarz). Given
  how many values are seen k-1, k or k+1 times, these numbers are multinomial. The e-value is their probability under a
  Dirichlet(1/2) mixture over the largest that this inequality admits (universal inference; Wasserman, Ramdas and
  Balakrishnan 2020), averaged over k = 2..10. Requests that callers repeat are such draws, and are no copies.
- `drift`: the urn's e-value (`online.urn`) of the later rows among the earlier ones, averaged over three fixed splits
  and over detectors: an e-value, which reaches 1/p with probability at most p (Markov).
- `dependence`: the largest rank autocorrelation of neighbours among detectors, within twenty stretches of time (so that
  it is not drift that is seen), against rows in random order; and
- `alike`: the largest intraclass correlation of rows with the same label (a session, a version), against labels in
  random order. Both are Monte Carlo permutation tests: with N orders the p-value is at least 1/(N + 1), and at most p
  with probability at most p (Phipson and Smyth 2010).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import exp, lgamma, log, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tocsin_calibration.online.urn import cell_edges, drift_test

Floats = NDArray[np.float64]
SPLITS = (0.25, 0.5, 0.75)
ORDERS = 999  # of a permutation test
MOST_ROWS, MOST_SCORES = 10_000, 100_000  # in a permutation test; the first rows stand for all
LEAST_ROWS = 40  # below which nothing is looked for
MOST_LAGS = 200
QUARTERS = 4
STRETCHES = 20
MOST_COPIES = 10


class Copies(NamedTuple):
    """log of the e-value, the number of copies that speaks most for it, and the share of rows that repeat another."""

    log_evalue: float
    times: int
    repeated: float


class Drift(NamedTuple):
    """log of the e-value, and shares (QUARTERS,) of a detector's scores above the quantile that alpha of all exceed."""

    log_evalue: float
    column: int
    shares: tuple[float, ...]


class Dependence(NamedTuple):
    """A correlation, of which column, its p-value, and how many rows are worth one independent one."""

    correlation: float
    column: int
    p_value: float
    rows_worth_one: float


def copies(scores: NDArray[np.floating]) -> Copies | None:
    """Evidence that rows (n, d) were copied; None of too few."""
    if len(scores) < LEAST_ROWS:
        return None
    _, counts = np.unique(np.ascontiguousarray(scores), axis=0, return_counts=True)
    seen_times = np.bincount(counts, minlength=MOST_COPIES + 2)
    logs = [_log_copied(times, *map(int, seen_times[times - 1 : times + 2])) for times in range(2, MOST_COPIES + 1)]
    largest = max(logs)
    total = largest + log(sum(exp(value - largest) for value in logs)) - log(len(logs))
    return Copies(total, 2 + logs.index(largest), 1 - len(counts) / len(scores))


def _log_copied(times: int, fewer: int, exactly: int, more: int) -> float:
    """log of the e-value that values seen `times` times are too many beside those seen once less, or once more."""
    values = fewer + exactly + more
    if not exactly:
        return 0.0
    mixture = lgamma(1.5) - lgamma(values + 1.5) + sum(lgamma(n + 0.5) - lgamma(0.5) for n in (fewer, exactly, more))
    ratio = (times + 1) / times
    if exactly**2 <= ratio * fewer * more:  # the likeliest chances are possible ones
        return mixture - sum(n * log(n / values) for n in (fewer, exactly, more) if n)
    # On the edge the chances are as 1, sqrt(ratio) u, u^2.
    weight, slope = exactly + 2 * more, sqrt(ratio)
    square, linear = 2 * values - weight, (values - weight) * slope
    u = (-linear + sqrt(linear * linear + 4 * square * weight)) / (2 * square)
    return mixture - (exactly * log(slope * u) + 2 * more * log(u) - values * log(1 + slope * u + u * u))


def drift(scores: NDArray[np.floating], alpha: float, seed: int = 0) -> Drift | None:
    """Evidence that the scores (n, d), in the order of time, have changed; None of too few."""
    n, d = scores.shape
    if n < LEAST_ROWS:
        return None
    logs = []
    for column in range(d):
        ranks = _ranks(scores[:, column], seed + column)
        for split in SPLITS:
            first = round(n * split)
            gaps = np.searchsorted(np.sort(ranks[:first]), ranks[first:])
            edges = cell_edges(first)
            counts = np.histogram(gaps, [edge - 0.5 for edge in edges])[0]
            assert counts.sum() == n - first and len(counts) == len(list(pairwise(edges)))
            logs.append(drift_test(first).log_evalue(counts.tolist()))
    largest = max(logs)
    total = largest + log(sum(exp(value - largest) for value in logs)) - log(len(logs))
    shares = [_shares_above(scores[:, column], alpha) for column in range(d)]
    column = int(np.argmax([max(quarters) for quarters in shares]))
    return Drift(total, column, shares[column])


def dependence(scores: NDArray[np.floating], seed: int = 0) -> Dependence | None:
    """Rank autocorrelation of neighbours among scores (n, d) in the order of time; None of too few."""
    if len(scores) < LEAST_ROWS:
        return None
    standard = _standardised(scores[: _most(scores)], seed)
    n, draw = len(standard), np.random.default_rng(seed)
    observed = _neighbours(_within_stretches(standard))
    orders = np.array([_neighbours(_within_stretches(standard[draw.permutation(n)])).max() for _ in range(ORDERS)])
    column, p_value = int(observed.argmax()), _p_value(float(observed.max()), orders)
    return Dependence(float(observed[column]), column, p_value, _correlation_time(_within_stretches(standard)))


def alike(scores: NDArray[np.floating], labels: Sequence[str], seed: int = 0) -> Dependence | None:
    """Intraclass correlation of the ranks of scores (n, d) with the same label; None where labels tell nothing."""
    if len(scores) < LEAST_ROWS:
        return None
    most = _most(scores)
    standard, names = _standardised(scores[:most], seed), np.asarray([str(label) for label in labels[:most]])
    _, classes, sizes = np.unique(names, return_inverse=True, return_counts=True)
    if len(sizes) < 2 or len(sizes) == len(names):
        return None
    draw = np.random.default_rng(seed)
    observed = _intraclass(standard, classes, sizes)
    orders = np.array([_intraclass(standard, draw.permutation(classes), sizes).max() for _ in range(ORDERS)])
    column = int(observed.argmax())
    correlation = float(observed[column])
    worth_one = 1 + (float((sizes**2).sum() / sizes.sum()) - 1) * max(0.0, correlation)
    return Dependence(correlation, column, _p_value(correlation, orders), worth_one)


def _most(scores: NDArray[np.floating]) -> int:
    """How many rows a permutation test takes, so that many detectors do not make it slow."""
    return min(MOST_ROWS, MOST_SCORES // int(scores.shape[1]))


def _ranks(scores: NDArray[np.floating], seed: int) -> NDArray[np.intp]:
    """Ranks 0..n-1, ties broken at random."""
    tie_breakers = np.random.default_rng(seed).random(len(scores))
    ranks = np.empty(len(scores), np.intp)
    ranks[np.lexsort((tie_breakers, scores))] = np.arange(len(scores))
    return ranks


def _standardised(scores: NDArray[np.floating], seed: int) -> Floats:
    """Ranks of each column, of mean 0 and variance 1."""
    ranks = np.stack([_ranks(column, seed + at) for at, column in enumerate(scores.T)], axis=1).astype(np.float64)
    result: Floats = (ranks - ranks.mean(axis=0)) / ranks.std(axis=0)
    return result


def _shares_above(scores: NDArray[np.floating], alpha: float) -> tuple[float, ...]:
    limit = np.sort(scores)[max(0, len(scores) - 1 - int(alpha * len(scores)))]
    return tuple(float((quarter > limit).mean()) for quarter in np.array_split(scores, QUARTERS))


def _within_stretches(standard: Floats) -> Floats:
    """What each value deviates from the mean of its stretch of time."""
    n = len(standard)
    starts = np.unique(np.linspace(0, n, min(STRETCHES, n // 10), endpoint=False).astype(np.intp))
    lengths = np.diff(np.append(starts, n))
    means = np.add.reduceat(standard, starts, axis=0) / lengths[:, None]
    result: Floats = standard - np.repeat(means, lengths, axis=0)
    return result


def _neighbours(standard: Floats) -> Floats:
    result: Floats = (standard[1:] * standard[:-1]).mean(axis=0)
    return result


def _correlation_time(standard: Floats) -> float:
    """1 + 2 sum of autocorrelations, until they are within chance; the largest of all columns."""
    n, longest = len(standard), 1.0
    for column in standard.T:
        total = 1.0
        for lag in range(1, min(MOST_LAGS, n // 4)):
            correlation = float((column[lag:] * column[:-lag]).mean())
            if correlation < 2 / n**0.5:
                break
            total += 2 * correlation
        longest = max(longest, total)
    return longest


def _intraclass(standard: Floats, classes: NDArray[np.intp], sizes: NDArray[np.intp]) -> Floats:
    """The one-way ANOVA estimate for each column (d,)."""
    n, number = len(standard), len(sizes)
    sums = np.stack([np.bincount(classes, column, number) for column in standard.T], axis=1)
    between = (sums**2 / sizes[:, None]).sum(axis=0) / (number - 1)
    within = (n - (sums**2 / sizes[:, None]).sum(axis=0)) / (n - number)
    usual = (n - (sizes**2).sum() / n) / (number - 1)
    result: Floats = (between - within) / (between + (usual - 1) * within)
    return result


def _p_value(observed: float, orders: Floats) -> float:
    return (1 + int((orders >= observed).sum())) / (len(orders) + 1)
