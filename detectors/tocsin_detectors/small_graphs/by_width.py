"""Evaluators of a graph whose signals are of free length: one for each of the widths that come often.

A plan has static shapes, so each width takes one of its own, which is tried against ONNX Runtime before it is used.
That takes some milliseconds, in a thread; until then, and for widths that are rare, ONNX Runtime scores.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

from tocsin_detectors.errors import GraphError
from tocsin_detectors.observation import Float32
from tocsin_detectors.small_graphs.evaluator import Evaluator
from tocsin_detectors.small_graphs.unsupported import Unsupported

log = logging.getLogger("tocsin")

OFTEN = 256  # batches of one width, from which on a plan for it is tried
MOST_WIDTHS = 16  # that have plans
LARGEST_GRAPH = 1 << 18  # bytes of a graph of which there may be many plans: each has copies of its constants
MOST_COUNTED = 4_096  # widths of which batches are counted

Widths = tuple[int, ...]


class EvaluatorsByWidth:
    """Finds the evaluator of a batch by the widths of its signals. `make` makes one, and raises Unsupported where ONNX
    Runtime has to score; `shortest` is the one of `widths`.
    """

    def __init__(
        self, make: Callable[[Mapping[str, int]], Evaluator], widths: Mapping[str, int], shortest: Evaluator
    ) -> None:
        self._make = make
        self._names = tuple(widths)
        self._evaluators: dict[Widths, Evaluator | None] = {tuple(widths.values()): shortest}
        self._batches: dict[Widths, int] = {}
        self._is_trying = False

    def look_up(self, widths: Mapping[str, int]) -> Evaluator | None:
        """The evaluator of signals of these widths, where there is one; nothing is counted."""
        return self._evaluators.get(tuple([widths[name] for name in self._names]))

    def of(self, signals: Mapping[str, Float32]) -> Evaluator | None:
        """The evaluator of a batch, which is counted; None where there is none for its widths, yet or at all."""
        widths = tuple([signals[name].shape[1] for name in self._names])
        evaluator = self._evaluators.get(widths)
        if evaluator is None and not self._is_trying and len(self._evaluators) < MOST_WIDTHS:
            self._count(widths)
        return evaluator

    def _count(self, widths: Widths) -> None:
        if widths in self._evaluators:
            return
        batches = self._batches[widths] = self._batches.get(widths, 0) + 1
        if batches >= OFTEN:
            self._is_trying = True
            self._batches.clear()
            threading.Thread(target=self._try, args=(widths,), name="tocsin-small-graph", daemon=True).start()
        elif len(self._batches) > MOST_COUNTED:
            self._batches.clear()

    def _try(self, widths: Widths) -> None:
        evaluator = None
        try:
            evaluator = self._make(dict(zip(self._names, widths, strict=True)))
        except (GraphError, Unsupported) as reason:
            log.debug("ONNX Runtime scores rows of widths %s: %s", widths, reason)
        finally:
            self._evaluators[widths] = evaluator
            self._is_trying = False
