"""Agreement of several raters: Krippendorff's alpha, from sums that can be added up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import nan
from typing import NamedTuple


class RatingSums(NamedTuple):
    """What Krippendorff's alpha of some items is made of; the sums of several groups of items add up.

    `items` were rated at least twice each, by `ratings` ratings altogether; `total` and `squares` sum these up, and
    `within` is how much those of one item differ: sum over items of 1/(m - 1) times the squared differences of all
    ordered pairs of its m ratings.
    """

    items: int = 0
    ratings: int = 0
    total: float = 0.0
    squares: float = 0.0
    within: float = 0.0

    @property
    def alpha(self) -> float:
        """Krippendorff's alpha with the interval metric, at most 1: 1 where raters agree on every item, about 0 where
        they agree no more than ratings drawn from all items would, negative where less. NaN where every rating is the
        same, so that nothing can be told.

        Source: Krippendorff (2011), Computing Krippendorff's Alpha-Reliability; Hayes and Krippendorff (2007).
        """
        among_all = 2 * (self.ratings * self.squares - self.total**2)
        if not among_all > 1e-12 * self.ratings * self.squares:
            return nan
        return 1 - (self.ratings - 1) * self.within / among_all


def rating_sums(ratings: Sequence[float]) -> RatingSums:
    """The sums of one item. `ratings` are those of any raters, without those that gave none; fewer than two say nothing
    about agreement.
    """
    m = len(ratings)
    if m < 2:
        return RatingSums()
    total, squares = sum(ratings), sum(rating * rating for rating in ratings)
    differences = sum((a - b) ** 2 for a in ratings for b in ratings)
    return RatingSums(1, m, total, squares, differences / (m - 1))


def added(sums: Iterable[RatingSums]) -> RatingSums:
    """The sums of several groups of items together.

    >>> round(added(rating_sums(item) for item in ([1, 1], [2, 3], [4, 4])).alpha, 3)
    0.894
    """
    return RatingSums(*(sum(column) for column in zip(RatingSums(), *sums, strict=True)))
