"""Intraclass correlation ICC(2,1) of several raters, from sums that can be added up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import nan
from typing import NamedTuple


class RaterSums(NamedTuple):
    """What the intraclass correlation of n items that each of k raters has rated is made of; the sums of several
    groups of items with the same raters add up.

    `by_rater` (k,) are the sums of each rater's ratings, `squares` sums up all squared ratings, and `item_squares` is
    the sum over items of their squared totals. `agreement` is at most 1, and NaN where it is undefined: fewer than
    two items or raters, or every rating the same.

    Source: Shrout and Fleiss (1979), Intraclass Correlations: Uses in Assessing Rater Reliability. Psychological
    Bulletin 86, 420-428.
    """

    items: int = 0
    by_rater: tuple[float, ...] = ()
    squares: float = 0.0
    item_squares: float = 0.0

    @property
    def agreement(self) -> float:
        """ICC(2,1): of one rating by a rater like these, where all rate every item. A rater who is stricter than others
        lowers it.
        """
        between, error, raters = self._mean_squares()
        k = len(self.by_rater)
        habits = k * (raters - error) / self.items if self.items else nan
        return _ratio(between - error, between + (k - 1) * error + habits)

    def _mean_squares(self) -> tuple[float, float, float]:
        """BMS, EMS and JMS of the analysis of variance: between items, error, between raters."""
        n, k = self.items, len(self.by_rater)
        if n < 2 or k < 2:
            return nan, nan, nan
        correction = sum(self.by_rater) ** 2 / (n * k)
        total = self.squares - correction
        if not total > 1e-12 * self.squares:
            return nan, nan, nan
        items = self.item_squares / k - correction
        raters = sum(of_rater**2 for of_rater in self.by_rater) / n - correction
        error = max(0.0, total - items - raters)
        return items / (n - 1), error / ((n - 1) * (k - 1)), raters / (k - 1)


def rater_sums(ratings: Sequence[float]) -> RaterSums:
    """The sums of one item, whose ratings (k,) stand in the order of the raters."""
    return RaterSums(1, tuple(ratings), sum(rating * rating for rating in ratings), sum(ratings) ** 2)


def added_raters(sums: Iterable[RaterSums]) -> RaterSums:
    """The sums of several groups of items together. Raises ValueError where they have not the same number of raters.

    >>> round(added_raters(rater_sums(item) for item in ([1, 1], [2, 3], [4, 4])).agreement, 3)
    0.929
    """
    groups = [of_group for of_group in sums if of_group.items]
    return RaterSums(
        sum(of_group.items for of_group in groups),
        tuple(sum(column) for column in zip(*(of_group.by_rater for of_group in groups), strict=True)),
        sum(of_group.squares for of_group in groups),
        sum(of_group.item_squares for of_group in groups),
    )


def _ratio(above: float, below: float) -> float:
    return above / below if below > 0 else nan
