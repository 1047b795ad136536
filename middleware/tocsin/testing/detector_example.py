"""A detector, and the responses of a made-up model that claims about it are tried on."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tocsin_detectors import Detector, DetectorError, Observations, Scorer, SignalError
from tocsin_detectors.registry import parse

ROWS = 240  # of the example
LEAST_ROWS = 20  # that a detector is fitted on, and that it scores

Signals = Mapping[str, NDArray[np.generic]]


def example_signals(seed: int = 0) -> dict[str, NDArray[np.generic]]:
    """Every signal that some built-in detector reads: 240 responses of a made-up model that has them all.

    >>> example_signals()["probs"].shape
    (240, 4)
    """
    rng = np.random.default_rng(seed)
    embedding = rng.normal(size=(ROWS, 6))
    logits = embedding @ np.random.default_rng(9).normal(size=(6, 4))
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    other = rng.dirichlet(np.ones(4), ROWS)
    centre = rng.normal(size=(ROWS, 1))
    actions = centre[:, :, None, None] + 0.1 * rng.normal(size=(ROWS, 5, 4, 2))
    preferences = rng.uniform(size=(ROWS, 4, 4))
    return {
        "embedding": embedding,
        "logits": logits,
        "probs": probs,
        "label": probs.argmax(axis=1),
        "wrong": probs.argmax(axis=1) % 2,
        "prediction": centre,
        "target": centre + rng.normal(size=(ROWS, 1)),
        "quantiles": centre + np.array([-1.0, 0, 1]),
        "model_quantiles": centre[:, :, None] + np.array([[-1.0, 0, 1], [-2, 0, 2]]),
        "actions": actions,
        "previous_actions": actions + 0.1 * rng.normal(size=actions.shape),
        "token_logprobs": np.log(rng.uniform(0.1, 1, (ROWS, 12))),
        "top_logprobs": np.log(0.9 * -np.sort(-rng.dirichlet(np.ones(4), (ROWS, 12)), axis=2)),
        "tokens": rng.integers(0, 9, (ROWS, 12)),
        "answer_embeddings": rng.normal(size=(ROWS, 3, 6)),
        "answer_logprobs": np.log(rng.uniform(0.1, 1, (ROWS, 3))),
        "answer_tokens": rng.integers(0, 9, (ROWS, 3, 5)),
        "choice_probs": probs,
        "swapped_choice_probs": other,
        "rating_probs": other,
        "preferences": preferences,
        "probs_a": probs,
        "probs_b": other,
        "score": rng.uniform(size=(ROWS, 1)),
    }


class DetectorExample:
    """A detector and the responses that claims about it are tried on. Fitted once for all of them.

    Raises AssertionError where it lacks a name, a source or signals, or the example has not what it reads.
    """

    def __init__(
        self,
        detector: str | Callable[[], Detector],
        safe: Mapping[str, ArrayLike] | None = None,
        later: Mapping[str, ArrayLike] | None = None,
    ) -> None:
        self._make = detector
        unfitted = self.make()
        self.name = str(getattr(unfitted, "name", ""))
        self.reads = tuple(unfitted.reads)
        self.require(bool(self.name), f"{type(unfitted).__name__}.name must be the detector's name on metrics")
        self.require(bool(getattr(unfitted, "source", "")), "`source` must say where the method is published")
        self.require(bool(self.reads), "`reads` must name the signals that graph() takes")
        used = (*self.reads, *getattr(unfitted, "fits_on", ()))
        fitted_on = example_signals(0) if safe is None else safe
        scored = later if later is not None else (example_signals(1) if safe is None else safe)
        self.safe = self._chosen(fitted_on, used, self.reads, "safe")
        self.later = self._chosen(scored, self.reads, self.reads, "later")

    def make(self) -> Detector:
        """An unfitted detector."""
        return parse(self._make) if isinstance(self._make, str) else self._make()

    def fit(self, signals: Signals, *, seed: int = 0) -> Scorer:
        """A scorer of the detector alone, fitted on these. Raises SignalError when the data cannot serve."""
        from tocsin_detectors.graph import build_graph

        observations = Observations(signals)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Scorer(build_graph([self.make().fit(observations, seed=seed)], observations))

    @cached_property
    def scorer(self) -> Scorer:
        """The detector fitted on `safe`. Raises AssertionError where that fails."""
        try:
            return self.fit(self.safe)
        except DetectorError as error:
            raise AssertionError(
                f"detector '{self.name}': the example's data cannot be fitted and compiled: {error}"
            ) from error

    def require(self, holds: bool, claim: str) -> None:
        """Raises AssertionError with the claim unless it holds."""
        if not holds:
            raise AssertionError(f"detector '{self.name}': {claim}")

    def refusal(self, signals: Signals, situation: str) -> str:
        """How fitting on these refuses in words. Raises AssertionError where it takes them, or fails otherwise."""
        try:
            self.make().fit(Observations(signals))
        except SignalError as error:
            return str(error)
        except Exception as error:
            raise AssertionError(
                f"detector '{self.name}': fit must raise SignalError {situation}, not {type(error).__name__}: {error}"
            ) from error
        raise AssertionError(f"detector '{self.name}': fit must raise SignalError {situation}, and took the data")

    def _chosen(
        self, signals: Mapping[str, ArrayLike], used: tuple[str, ...], required: tuple[str, ...], which: str
    ) -> Signals:
        chosen = {name: np.asarray(signals[name]) for name in used if name in signals}
        missing = [name for name in required if name not in chosen]
        self.require(
            not missing, f"reads {', '.join(missing)}, which `{which}` does not hold; give signals to check on"
        )
        rows = {name: len(values) for name, values in chosen.items()}
        self.require(min(rows.values()) >= LEAST_ROWS, f"`{which}` must have at least {LEAST_ROWS} rows, not {rows}")
        return chosen
