"""How different the latest drawn answers are from each other."""

from __future__ import annotations

import threading
from collections import deque
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tocsin_calibration.evaluation.diversity import vendi_score


class Diversity(NamedTuple):
    """The Vendi score of a window of answers, and how many there are; sums of several windows, how many of them."""

    score: float
    answers: int
    windows: int = 1


class DiversityWindow:
    """The embeddings of the latest answers. Safe between threads."""

    def __init__(self, size: int) -> None:
        self._embeddings: deque[NDArray[np.float32]] = deque(maxlen=size)
        self._lock = threading.Lock()

    def add(self, embedding: NDArray[np.float32]) -> None:
        """Take note of an answer, by its embedding (D,), finite and not zero. Embeddings of another length begin the
        window anew: the embedder has changed.
        """
        with self._lock:
            if self._embeddings and len(self._embeddings[0]) != len(embedding):
                self._embeddings.clear()
            self._embeddings.append(embedding)

    def diversity(self) -> Diversity:
        """Of the answers in the window."""
        with self._lock:
            embeddings = list(self._embeddings)
        return Diversity(vendi_score(np.array(embeddings)), len(embeddings))
