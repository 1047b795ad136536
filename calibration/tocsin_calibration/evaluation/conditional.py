"""How often parts of safe traffic alarm: by class, group, bins of a number, time, and the worst slab of the inputs.

A promise for all responses says nothing of a part of them: one class may alarm three times as often, and others less.
Given calibration, the alarms of fresh safe responses of a part are independent, each with that part's rate. So each
part has an exact interval (Clopper and Pearson 1934), at 1 - 0.01/m for m parts: with probability 0.99 all intervals
hold their rates at once. A part is called high where its rate exceeds alpha by an exact binomial test, adjusted for all
m parts (Holm 1979): with probability at most 0.01 any part is that does not.

The worst slab (Cauchois, Gupta and Duchi 2021, arXiv:2004.10181) is the part a <= v'x <= b of the inputs x that alarms
most, over random directions v. It is searched on one half of the data and measured on the other, so that it is a part
like the others, fixed before it is counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tocsin_calibration.errors import CalibrationError
from tocsin_calibration.thresholds.binomial import binomial_cdf, clopper_pearson

LEVEL = 0.01  # the probability that any interval misses, and that any part is wrongly called high
MOST_NAMES = 30  # of one column, those with the most responses; a column of numbers with more is cut into bins
BINS = 5
DIRECTIONS, SLAB_EDGES, LEAST_OF_SLAB = 200, 20, 0.1  # the share of all responses that a slab holds at least
LEAST_TO_SEARCH = 100  # responses, of both halves together


class PartCheck(NamedTuple):
    """One part of safe traffic. `low`, `high`: its alarm rate, for all parts at once with probability 0.99. `p_value`:
    that it does not exceed alpha, adjusted for all parts.
    """

    kind: str
    name: str
    n: int
    alarms: int
    low: float
    high: float
    p_value: float

    @property
    def rate(self) -> float:
        """The share that alarmed."""
        return self.alarms / self.n

    @property
    def word(self) -> str:
        """high where the rate exceeds alpha for sure, low where it lies below it, as promised for all otherwise."""
        return "high" if self.p_value <= LEVEL else ""


def conditional(
    alarmed: ArrayLike,
    alpha: float,
    columns: Mapping[str, Sequence[object]],
    inputs: NDArray[np.floating] | None = None,
    *,
    seed: int = 0,
) -> list[PartCheck]:
    """Every part of safe responses (n,) of which these alarmed: each value of columns (n,) of names, bins of columns of
    numbers with many values, and the worst slab of inputs (n, k), where there are some.

    Raises CalibrationError when lengths differ.

        >>> alarmed = np.arange(1_000) % 10 == 0
        >>> [part.word for part in conditional(alarmed, 0.05, {"class": ["a", "b"] * 500})]
        ['high', '']
    """
    hits = np.asarray(alarmed, bool)
    parts: list[tuple[str, str, int, int]] = []
    for kind, values in columns.items():
        if len(values) != len(hits):
            raise CalibrationError(f"there are {len(values)} values of {kind} for {len(hits)} responses")
        for name, inside in _parts_of(values):
            parts.append((kind, name, int(inside.sum()), int(hits[inside].sum())))
    if inputs is not None and len(inputs) != len(hits):
        raise CalibrationError(f"there are {len(inputs)} rows of inputs for {len(hits)} responses")
    if inputs is not None and len(hits) >= LEAST_TO_SEARCH and inputs.shape[1]:
        parts.append(("slab", *worst_slab(hits, np.asarray(inputs, np.float64), seed)))
    parts = [part for part in parts if part[2]]
    adjusted = _holm([1 - binomial_cdf(alarms - 1, n, alpha) for _, _, n, alarms in parts])
    return [
        PartCheck(*part, *clopper_pearson(part[3], part[2], 1 - LEVEL / len(parts)), p_value)
        for part, p_value in zip(parts, adjusted, strict=True)
    ]


def worst_slab(hits: NDArray[np.bool_], inputs: NDArray[np.float64], seed: int = 0) -> tuple[str, int, int]:
    """The slab of inputs (n, k) with the most alarms (n,): which it is in words, and of the half that it was not
    searched on, how many responses are in it, and how many of these alarmed.
    """
    random = np.random.default_rng(seed)
    order = random.permutation(len(hits))
    searched, measured = np.array_split(order, 2)
    spread = inputs[searched].std(axis=0)
    centred = (inputs - inputs[searched].mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    best = -1.0
    worst: tuple[NDArray[np.float64], float, float] = (np.zeros(inputs.shape[1]), -np.inf, np.inf)
    for _ in range(DIRECTIONS):
        direction: NDArray[np.float64] = np.asarray(random.normal(size=inputs.shape[1]))
        places = centred[searched] @ direction
        edges = np.unique(np.quantile(places, np.linspace(0, 1, SLAB_EDGES + 1)))
        if len(edges) < 2:
            continue
        cells = np.clip(np.searchsorted(edges, places, side="right") - 1, 0, len(edges) - 2)
        rows = np.append(0, np.cumsum(np.bincount(cells, minlength=len(edges) - 1)))
        alarms = np.append(0, np.cumsum(np.bincount(cells, hits[searched], len(edges) - 1)))
        inside, caught = rows[None, :] - rows[:, None], alarms[None, :] - alarms[:, None]
        rates = np.where(inside >= LEAST_OF_SLAB * len(searched), caught / np.maximum(inside, 1), -1.0)
        start, end = np.unravel_index(int(rates.argmax()), rates.shape)
        if rates[start, end] > best:
            low = -np.inf if start == 0 else float(edges[start])
            high = np.inf if end == len(edges) - 1 else float(edges[end])
            best, worst = float(rates[start, end]), (direction, low, high)
    places = centred[measured] @ worst[0]
    chosen = (places >= worst[1]) & (places < worst[2])
    return f"the worst {chosen.mean():.0%} along a direction", int(chosen.sum()), int(hits[measured][chosen].sum())


def _parts_of(values: Sequence[object]) -> list[tuple[str, NDArray[np.bool_]]]:
    """Names and members of a column's values; of numbers with many values, of equally full bins."""
    numbers = _numbers(values)
    if numbers is not None and len(np.unique(numbers)) > MOST_NAMES:
        edges = np.unique(np.quantile(numbers, np.linspace(0, 1, BINS + 1)))
        cells = np.clip(np.searchsorted(edges, numbers, side="right") - 1, 0, len(edges) - 2)
        return [(f"{edges[at]:.4g} to {edges[at + 1]:.4g}", cells == at) for at in range(len(edges) - 1)]
    names, counts = np.unique(np.array([str(value) for value in values]), return_counts=True)
    largest = names[np.argsort(-counts, kind="stable")[:MOST_NAMES]]
    column = np.array([str(value) for value in values])
    return [(str(name), column == name) for name in sorted(largest)]


def _numbers(values: Sequence[object]) -> NDArray[np.float64] | None:
    if not all(isinstance(value, int | float | np.number) for value in values):
        return None
    numbers = np.array(values, np.float64)
    return numbers if np.isfinite(numbers).all() else None


def _holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted so that any wrong rejection at all is as rare as the level says (Holm 1979)."""
    order, adjusted, largest = np.argsort(p_values), [0.0] * len(p_values), 0.0
    for rank, at in enumerate(order.tolist()):
        largest = max(largest, min(1.0, max(0.0, p_values[at]) * (len(p_values) - rank)))
        adjusted[at] = largest
    return adjusted
