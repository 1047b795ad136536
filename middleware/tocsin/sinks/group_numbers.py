"""Groups by number, so that numpy can sort and count them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

NO_GROUP = -1  # of a row whose group has no promise of its own


class GroupNumbers(dict[str, int]):
    """The number of each of these groups, from 0 in their order; NO_GROUP of any other name."""

    def __init__(self, groups: Iterable[str]) -> None:
        super().__init__((name, number) for number, name in enumerate(groups))
        # Numpy sorts numbers of two bytes by their digits, which takes a fraction of comparing them.
        self._kind = np.int16 if len(self) < np.iinfo(np.int16).max else np.int32

    def __missing__(self, name: str) -> int:
        return NO_GROUP

    def of(self, names: Sequence[str]) -> NDArray[np.signedinteger]:
        """The numbers (m,) of m rows' groups."""
        return np.fromiter(map(self.__getitem__, names), self._kind, len(names))

    def rows(self, numbers: NDArray[np.signedinteger]) -> dict[str, int]:
        """How many of m rows with these numbers (m,) each group has; without those that have none."""
        counts = np.bincount(numbers + 1, minlength=len(self) + 1)[1:].tolist()
        return {name: count for name, count in zip(self, counts, strict=True) if count}
