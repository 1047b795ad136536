"""Scores that were tried beside the detectors: how surprising a move was, and the clock."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rollouts import Rollout
from sklearn.kernel_ridge import KernelRidge
from tasks import EXECUTED

STRENGTHS, WIDTHS = (0.01, 0.1, 1.0), (0.001, 0.003, 0.01, 0.03)  # of which those that predict a fifth best are taken

Float = NDArray[np.float64]


class Transition:
    """How far the next embedding lies from what the last one and the actions done lead to, as safe moves differ.

    Kernel ridge regression on safe moves; what is left of those that choosing left out is the measure (Mahalanobis).
    """

    def __init__(self, safe: Sequence[Rollout]) -> None:
        moves, changes = (np.concatenate(part) for part in zip(*map(_moves, safe), strict=True))
        self._centre, self._spread = moves.mean(axis=0), moves.std(axis=0) + 1e-6
        apart = np.arange(len(moves)) % 5 == 0
        fitted_on, fresh = self._scaled(moves[~apart]), self._scaled(moves[apart])
        models = [
            KernelRidge(alpha=strength, kernel="rbf", gamma=width).fit(fitted_on, changes[~apart])
            for strength in STRENGTHS
            for width in WIDTHS
        ]
        residuals = [changes[apart] - model.predict(fresh) for model in models]
        best = int(np.argmin([(model**2).mean() for model in residuals]))
        self._model, spread = models[best], np.cov(residuals[best].T)
        size = len(spread)
        self._inverse = np.linalg.inv(spread + 1e-3 * np.trace(spread) / size * np.eye(size))

    def __call__(self, rollout: Rollout) -> Float:
        """One score a query (T,); the first, with nothing before it, is 0."""
        scores = np.zeros(len(rollout.query_steps))
        if len(scores) > 1:
            moves, changes = _moves(rollout)
            residuals = changes - self._model.predict(self._scaled(moves))
            scores[1:] = np.sqrt(np.einsum("ij,jk,ik->i", residuals, self._inverse, residuals))
        return scores

    def _scaled(self, moves: Float) -> Float:
        scaled: Float = (moves - self._centre) / self._spread
        return scaled


def clock(rollout: Rollout) -> Float:
    """How long it has taken (T,): what lasts longer than safe rollouts do is likely to fail."""
    return np.arange(len(rollout.query_steps), dtype=np.float64)


def _moves(rollout: Rollout) -> tuple[Float, Float]:
    """(T - 1, E + 8 A) of embeddings and actions done from there, and how embeddings changed (T - 1, E)."""
    embeddings = rollout.embeddings.astype(np.float64)
    done = rollout.chunks[:-1, 0, :EXECUTED].astype(np.float64)
    before = np.concatenate([embeddings[:-1], done.reshape(len(done), -1)], axis=1)
    return before, embeddings[1:] - embeddings[:-1]
