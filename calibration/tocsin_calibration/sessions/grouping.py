"""Rows of a recording as sessions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def rows_by_session(names: Sequence[str], times: ArrayLike | None = None) -> list[NDArray[np.intp]]:
    """Which rows each session has, from the session that each row names (n,): sessions in the order of their first row.

    A session's rows come in the order of their `times` (n,), else as they stand. A row that names no session, '', is a
    session by itself, as it is while serving.
    """
    if not len(names):
        return []
    order = np.arange(len(names)) if times is None else np.argsort(np.asarray(times), kind="stable")
    session_names = np.asarray([names[row] or f"\0{row}" for row in order.tolist()])
    _, first, session = np.unique(session_names, return_index=True, return_inverse=True)
    place = np.argsort(np.argsort(first))[session]  # sessions numbered as they appear
    by_session = np.argsort(place, kind="stable")
    ends = np.cumsum(np.bincount(place))[:-1]
    return [order[part] for part in np.split(by_session, ends)]
