"""Cells and alternatives for a change that has a direction: which of many streams of scores is not as it was?

The cells are finer towards high scores, where alarms come from. An alternative is where scores would fall that have
moved by some standard deviations on the scale on which calibration scores are normal, or of which some lie at the top;
two more are the null, more pliable, for whatever else happens. Each is a Dirichlet law, so that what `urn` says holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import NormalDist

from tocsin_calibration.online.urn import UrnTest

BOUNDS = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98)  # shares of the gaps below the cells' bounds
CERTAINTY = 100.0  # responses' worth, of the alternatives that say where scores fall
MOVED = ((0.25, 0.1), (0.5, 0.15), (1.0, 0.1), (2.0, 0.05), (-0.25, 0.05), (-0.5, 0.1), (-1.0, 0.05))  # sd, trust
ON_TOP = ((0.05, 0.1), (0.2, 0.1))  # share of scores that have moved into the highest cell, trust
PLIABLE = ((10.0, 0.1), (40.0, 0.1))  # certainty, trust
LEAST = 1e-4  # the share of any cell under an alternative, before all are made to sum to 1


def shift_edges(n: int) -> list[int]:
    """The gaps 0..n+1 among n calibration scores divided into at most 9 cells: cell i has gaps edges[i] to
    edges[i+1]-1.
    """
    return sorted({0, n + 1, *(round(bound * (n + 1)) for bound in BOUNDS)})


def shift_test(n: int) -> UrnTest:
    """Whether scores still rank among n calibration scores as they did, counted in the cells of `shift_edges`."""
    edges = shift_edges(n)
    sizes = [after - before for before, after in pairwise(edges)]
    shares = [size / (n + 1) for size in sizes]
    alternatives = [(trust, _scaled(_moved(edges, n, by), CERTAINTY)) for by, trust in MOVED]
    for share, trust in ON_TOP:
        on_top = [(1 - share) * cell for cell in shares]
        on_top[-1] += share
        alternatives.append((trust, _scaled(on_top, CERTAINTY)))
    alternatives += [(trust, _scaled(shares, certainty)) for certainty, trust in PLIABLE]
    return UrnTest(sizes, alternatives)


def _moved(edges: Sequence[int], n: int, by: float) -> list[float]:
    """The share of each cell when normal scores have moved by so many standard deviations."""
    normal = NormalDist()
    below = [0.0, *(normal.cdf(normal.inv_cdf(edge / (n + 1)) - by) for edge in edges[1:-1]), 1.0]
    return [after - before for before, after in pairwise(below)]


def _scaled(shares: Sequence[float], certainty: float) -> list[float]:
    raised = [share + LEAST for share in shares]
    return [certainty * share / sum(raised) for share in raised]
