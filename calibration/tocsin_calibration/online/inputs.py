"""Whether inputs are still those of calibration: a sequential two-sample test by betting on a classifier.

What a model shows of its inputs (embeddings) is projected on a few whitened directions and kept for some calibration
responses. Each of these is paired with a live response, once a window. A logistic regression, learnt from the pairs
before, says with which probability p which of the two is the live one; the stake is then multiplied by 2p. While live
and calibration responses are exchangeable, nobody can tell them apart, whatever was learnt: p and 1 - p are as likely
to be right, so the mean of 2p is 1 given the pairs before, and the stakes' product E is a martingale from 1 (sequential
predictive two-sample testing: Lheritier and Cazals 2018, arXiv:1509.06923; Podkopaev and Ramdas 2023,
arXiv:2305.00143).

A window ends when its pairs are used up, and the next begins from nothing, with all kept responses in another order.
Window j has the weight w_j = 6/(pi^2 j^2). Guarantee: under exchangeability P(any w_j E_j ever reaches 1/delta) <=
delta by Ville's inequality for each window and the union bound; windows share calibration responses, so their product
or sum would be none. Directions come from the responses that set the detectors' scales, none of which is paired.

What is seen are shifts of means and of spreads along the directions, and of the distance to them. Changes in what goes
with what, alone, are not. Every STRIDE-th response is paired, in blocks, so that a response costs a fraction of one
pair; which ones depends on their number alone.
"""

from __future__ import annotations

from math import log, pi
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tocsin_calibration.errors import CalibrationError

Float64 = NDArray[np.float64]
Float32 = NDArray[np.float32]

MOST_NUMBERS = 4_096  # of one response's signals together
DIRECTIONS = 15  # that are kept; one further number is the distance to all of them
PAIRED = 512  # calibration responses that are paired, so many pairs a window
LEAST = 64  # responses for directions, and for pairs, each
STRIDE = 8  # of so many live responses one is paired
BLOCK = 16  # pairs between two steps of learning
FAR = 4.0  # standard deviations at which a number is cut off
RATES = (0.02, 0.1, 0.5)  # of learning, each with a third of the stake
STEPS = np.array(RATES)[:, None]
SMALLEST = 1e-9
FLAT = 1e30


class InputsReference(NamedTuple):
    """What a bundle keeps of calibration's inputs. `signals`: their names, side by side (E,). `centre` (E,), `axes`
    (E, k): x -> (x - centre) @ axes has mean 0 and variance 1 on the responses that directions come from. `distance`:
    of the log of the distance to the directions, there, mean and standard deviation (FLAT where there is none), and
    the least square of one that counts. `rows` (r, k + 1): calibration responses so.
    """

    signals: tuple[str, ...]
    centre: Float64
    axes: Float64
    distance: Float64
    rows: Float64

    @classmethod
    def of(cls, signals: tuple[str, ...], first: Float32, rest: Float32, seed: int = 0) -> InputsReference:
        """From signals (a, E) of responses that directions come from, and (b, E) of others, some of which are kept.

        Raises CalibrationError when they are too few, too wide, or not finite.
        """
        if min(len(first), len(rest)) < LEAST:
            raise CalibrationError(
                f"watching inputs takes {LEAST} responses for directions and as many for pairs, not {len(first)} and "
                f"{len(rest)}"
            )
        if not 0 < first.shape[1] <= MOST_NUMBERS:
            raise CalibrationError(
                f"inputs are watched by 1 to {MOST_NUMBERS:,} numbers a response, not {first.shape[1]:,}"
            )
        if not (np.isfinite(first).all() and np.isfinite(rest).all()):
            raise CalibrationError("inputs to watch hold NaN or infinity; leave those responses out")
        some = first[: 4 * PAIRED].astype(np.float64)
        centre = some.mean(axis=0)
        _, spread, directions = np.linalg.svd(some - centre, full_matrices=False)
        deviations = spread / np.sqrt(len(some))
        k = max(1, min(DIRECTIONS, len(some) // 8, int((deviations > SMALLEST * max(deviations[0], SMALLEST)).sum())))
        axes = (directions[:k] / np.maximum(deviations[:k, None], SMALLEST)).T
        least = max(1e-6 * float((spread**2).sum()) / len(some), SMALLEST)  # far above what rounding leaves
        bare = cls(signals, centre, axes, np.array([0.0, FLAT, least]), np.zeros((0, k + 1)))
        logs = bare._projected(some)[1]
        if np.ptp(logs) > 0:
            bare = bare._replace(distance=np.array([logs.mean(), float(logs.std()), least]))
        chosen = np.random.default_rng([seed, 11]).permutation(len(rest))[:PAIRED]
        return bare._replace(rows=bare.features(rest[chosen]))

    def features(self, signals: NDArray[np.floating]) -> Float64:
        """Signals (n, E) as the test sees them (n, k + 1), each about normal on calibration; cut off at FAR."""
        along, logs = self._projected(signals)
        features = np.empty((len(along), along.shape[1] + 1))
        features[:, :-1], features[:, -1] = along, (logs - self.distance[0]) / self.distance[1]
        return np.maximum(np.minimum(features, FAR, out=features), -FAR, out=features)

    def _projected(self, signals: NDArray[np.floating]) -> tuple[Float64, Float64]:
        """Signals (n, E) along the directions (n, k), and the log of their distance from these (n,)."""
        centred = signals - self.centre
        along = centred @ self.axes
        lengths = np.maximum(np.einsum("ek,ek->k", self.axes, self.axes), SMALLEST)
        squares = np.einsum("ne,ne->n", centred, centred) - (along**2 / lengths).sum(axis=1)
        return along, 0.5 * np.log(np.maximum(squares, self.distance[2]))


class InputsTest:
    """The test while traffic flows, in memory that does not grow. Not safe between threads.

    `seed` orders calibration responses; None for an order that nobody knows. `pairs` counts those used so far.
    """

    def __init__(self, reference: InputsReference, seed: int | None = None) -> None:
        self._rows = _moments(reference.rows.astype(np.float32).astype(np.float64))  # as live ones come
        self._random = np.random.default_rng(seed)
        self._width = self._rows.shape[1]
        self.pairs = 0
        self._number = 0
        self._before = -np.inf  # the evidence at which the last window ended
        self._waiting = np.zeros((0, reference.rows.shape[1]))
        self._open()

    def add(self, features: Float64) -> None:
        """Take in live responses (n, k + 1) as `InputsReference.features` gives them, in their order."""
        waiting = np.concatenate([self._waiting, features]) if len(self._waiting) else features
        complete = len(waiting) - len(waiting) % BLOCK
        live = _moments(waiting[:complete])
        for start in range(0, complete, BLOCK):
            self._bet(live[start : start + BLOCK])
        self._waiting = waiting[complete:].copy()

    def log_evidence(self) -> float:
        """log of the evidence that inputs have changed: of this window, or as the last one ended if that is more."""
        largest = float(self._logs.max())
        now = largest + log(float(np.exp(self._logs - largest).mean()))
        return max(self._before, now + log(_share(self._number)))

    def _open(self) -> None:
        self._number += 1
        self._partners = self._rows[self._random.permutation(len(self._rows))]
        self._used = 0
        self._logs = np.zeros(len(RATES))
        self._weights = np.zeros((len(RATES), self._width))
        self._squares = np.full((len(RATES), self._width), 1.0)

    def _bet(self, live: Float64) -> None:
        """Bet on a block of pairs by what was learnt before it, then learn from it."""
        end = self._used + len(live)
        if end > len(self._partners):
            self._before = self._ended()
            self._open()
            end = len(live)
        differences = live - self._partners[self._used : end]
        self._used = end
        self.pairs += len(live)
        odds = self._weights @ differences.T  # (rates, pairs), and everything in its place
        np.minimum(np.maximum(odds, -8.0, out=odds), 8.0, out=odds)
        np.exp(np.negative(odds, out=odds), out=odds)
        self._logs += log(2.0) * len(live) - np.log1p(odds).sum(axis=1)
        gradients = np.divide(odds, 1 + odds, out=odds) @ differences
        self._squares += gradients * gradients
        gradients *= STEPS
        self._weights += np.divide(gradients, np.sqrt(self._squares), out=gradients)

    def _ended(self) -> float:
        self._before = -np.inf
        return self.log_evidence()


def _moments(features: Float64) -> Float64:
    """Numbers, and how far their squares lie from 1, as the classifier sees them."""
    return np.concatenate([features, (features**2 - 1) / FAR], axis=1)


def _share(number: int) -> float:
    return 6 / (pi * number) ** 2
