"""Choices that were shown in several orders: their probabilities are put into one order and averaged over a session.

A model prefers some positions to others. A caller that asks the same question with its choices in several orders sends
each call's order in metadata: `2,0,1` means that choice 2 is shown first. The calls of a session are one question.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tocsin.names import bounded
from tocsin.unscored import Unscored


class ChoiceOrders:
    """Reorders the signals of `keys` by the order that the metadata gives, and averages them over the session's calls
    so far. The newest `most` sessions are remembered. Safe between threads.
    """

    def __init__(self, signals: Sequence[str], keys: Mapping[str, str], most: int) -> None:
        self._places = [(at, keys[signal]) for at, signal in enumerate(signals) if signal in keys]
        self._most = most
        self._sums: OrderedDict[tuple[str, int], tuple[NDArray[np.float64], int]] = OrderedDict()
        self._lock = threading.Lock()
        self.keys = [key for _, key in self._places]

    def put_in_order(self, raws: list[bytes], metadata: Mapping[str, str], session: str) -> list[bytes]:
        """A response's signals, with choices in one order and averaged. Raises Unscored where the order is invalid."""
        reordered = list(raws)
        for at, key in self._places:
            probs = np.frombuffer(raws[at], np.float32)
            ordered = np.zeros(len(probs))
            ordered[_order(metadata.get(key, ""), key, len(probs))] = probs
            reordered[at] = self._averaged((bounded(session), at), ordered).astype(np.float32).tobytes()
        return reordered

    def _averaged(self, session: tuple[str, int], probs: NDArray[np.float64]) -> NDArray[np.float64]:
        """The probabilities averaged over those of the session so far, these included."""
        if not session[0]:
            return probs
        with self._lock:
            total, count = self._sums.pop(session, (np.zeros(len(probs)), 0))
            total, count = total + probs, count + 1
            self._sums[session] = total, count
            if len(self._sums) > self._most:
                self._sums.popitem(last=False)
        return total / count


def _order(text: str, key: str, choices: int) -> list[int]:
    """The choice that each position shows; the usual order where the metadata gives none."""
    if not text:
        return list(range(choices))
    parts = [part.strip() for part in text.split(",")]
    order = [int(part) for part in parts if part.isdigit()]
    if sorted(order) != list(range(choices)) or len(order) != len(parts):
        raise Unscored("shape", f"metadata '{key}' must be an order of {choices} choices, such as 1,0,2, not '{text}'")
    return order
