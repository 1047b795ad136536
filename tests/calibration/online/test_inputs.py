"""Claims about watching inputs: calm ones are ever called changed as rarely as promised, changed ones are found."""

from __future__ import annotations

from math import log

import numpy as np
import pytest
from scipy.stats import binom

from tocsin_calibration import CalibrationError, calibrate
from tocsin_calibration.content import arrays_of, facts_of, promise_from
from tocsin_calibration.online.inputs import BLOCK, FAR, MOST_NUMBERS, PAIRED, InputsReference, InputsTest

FAILURE, DELTA, WIDTH = 1e-4, 0.1, 6


def draw(random: np.random.Generator, rows: int, shift: float = 0.0, scale: float = 1.0) -> np.ndarray:
    """Inputs with correlations and heavy tails."""
    mixing = np.random.default_rng(5).normal(size=(WIDTH, WIDTH))
    return ((random.standard_t(3, size=(rows, WIDTH)) * scale + shift) @ mixing).astype(np.float32)


def reference(random: np.random.Generator, rows: int = 150) -> InputsReference:
    return InputsReference.of(("embedding",), draw(random, rows), draw(random, rows), 0)


def highest(test: InputsTest, kept_inputs: InputsReference, live: np.ndarray) -> float:
    """The most evidence at any time."""
    most = -np.inf
    for at in range(0, len(live), BLOCK):
        test.add(kept_inputs.features(live[at : at + BLOCK]))
        most = max(most, test.log_evidence())
    return most


@pytest.mark.long
def test_calm_inputs_are_ever_called_changed_as_rarely_as_promised_over_many_windows() -> None:
    """Calibration is small, and its responses are used in six windows again: what one window learns of them is not
    taken into the next. By the binomial law of independent runs, each of which crosses with probability DELTA at most.
    """
    runs, crossed = 150, 0
    for run in range(runs):
        random = np.random.default_rng([2, run])
        kept_inputs = reference(random)
        crossed += highest(InputsTest(kept_inputs, run), kept_inputs, draw(random, 6 * 150)) >= log(1 / DELTA)
    assert binom.sf(crossed - 1, runs, DELTA) > FAILURE


@pytest.mark.long
def test_a_witness_that_went_on_over_windows_would_be_found_out() -> None:
    """What is not done, judged by the same law: learning goes on while calibration responses are used again."""

    class Remembering(InputsTest):
        def _open(self) -> None:
            before = getattr(self, "_weights", None)
            logs = getattr(self, "_logs", None)
            super()._open()
            if before is not None and logs is not None:
                self._number, self._weights, self._logs = 1, before, logs

    runs, crossed = 40, 0
    for run in range(runs):
        random = np.random.default_rng([3, run])
        kept_inputs = reference(random, 70)
        crossed += highest(Remembering(kept_inputs, run), kept_inputs, draw(random, 40 * 64)) >= log(1 / DELTA)
    assert binom.sf(crossed - 1, runs, DELTA) < FAILURE


@pytest.mark.parametrize(("shift", "scale"), [(1.0, 1.0), (0.0, 2.0), (0.0, 0.4)])
def test_changes_of_means_and_of_spreads_are_found(shift: float, scale: float) -> None:
    random = np.random.default_rng(4)
    kept_inputs = reference(random, 400)
    assert highest(InputsTest(kept_inputs, 0), kept_inputs, draw(random, 384, shift, scale)) >= log(100)


def test_what_has_left_the_directions_is_found_by_its_distance() -> None:
    random = np.random.default_rng(4)

    def flat(rows: int, off: float) -> np.ndarray:
        x = random.normal(size=(rows, 40)) * np.array([5.0] * 15 + [0.1] * 25)
        x[:, 20] += off * random.choice([-1.0, 1.0], rows)
        return x

    kept_inputs = InputsReference.of(("embedding",), flat(300, 0), flat(300, 0))
    assert highest(InputsTest(kept_inputs, 0), kept_inputs, flat(256, 1.0)) >= log(100)


def test_a_dimension_that_never_moves_and_directions_that_span_all_leave_no_noise() -> None:
    random = np.random.default_rng(6)
    first, rest = random.normal(size=(2, 100, 3))
    first[:, 2] = rest[:, 2] = 0.1
    kept_inputs = InputsReference.of(("embedding",), first, rest)
    assert kept_inputs.axes.shape == (3, 2)
    assert (np.abs(kept_inputs.features(rest)[:, -1]) < 1e-6).all()


def test_directions_and_pairs_are_of_different_responses_and_bounded() -> None:
    random = np.random.default_rng(7)
    kept_inputs = reference(random, 2_000)
    assert kept_inputs.rows.shape == (PAIRED, kept_inputs.axes.shape[1] + 1) and np.abs(kept_inputs.rows).max() <= FAR
    for first, rest in (
        (draw(random, 20), draw(random, 100)),
        (draw(random, 100), draw(random, 20)),
        (draw(random, 100) * np.nan, draw(random, 100)),
        (np.zeros((100, MOST_NUMBERS + 1)), np.zeros((100, MOST_NUMBERS + 1))),
    ):
        with pytest.raises(CalibrationError, match="input"):
            InputsReference.of(("embedding",), first, rest)


def test_a_bundle_keeps_what_is_watched() -> None:
    random = np.random.default_rng(8)
    promise = calibrate(random.normal(size=(400, 1)), {"alarm": 0.05})
    promise.inputs = reference(random)
    again = promise_from(facts_of(promise), arrays_of(promise), promise.detectors, "")
    assert again.inputs is not None and again.inputs.signals == ("embedding",)
    rows = draw(random, 64)
    assert np.array_equal(again.inputs.features(rows), promise.inputs.features(rows))
    facts = facts_of(promise)
    arrays = arrays_of(promise)
    arrays["inputs_axes"] = arrays["inputs_axes"][:-1]
    with pytest.raises(Exception, match="do not fit"):
        promise_from(facts, arrays, promise.detectors, "")
