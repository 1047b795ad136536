"""The contract of a detector: what fitting, calibrating and serving rely on, whatever it is given."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tocsin.testing.detector_example import LEAST_ROWS, DetectorExample
from tocsin_detectors import Detector, Observations, Scorer, SignalError

MOST_BATCH = 300  # rows of the largest batch that is tried
BROKEN_ROW = 7  # where a NaN or an infinity is put


def check_detector(
    detector: str | Callable[[], Detector],
    safe: Mapping[str, ArrayLike] | None = None,
    later: Mapping[str, ArrayLike] | None = None,
) -> None:
    """Check that a detector keeps the contract that all built-in ones keep; `CLAIMS` of this module lists it.

    `detector` makes an unfitted one: its class, a function, or its name as `tocsin fit --detector` takes it. It is
    fitted on `safe` and scores `later`: signals by name, each (rows, ...) with at least 20 rows; `example_signals`
    unless given, and `later` is `safe` where only that is given. Raises AssertionError naming the detector, the claim
    that does not hold, and where.

        >>> check_detector("entropy")
    """
    example = DetectorExample(detector, safe, later)
    for claim in CLAIMS:
        claim(example)


def scores_are_finite_numbers_that_differ(example: DetectorExample) -> None:
    """One score a row, none of them NaN or infinite, and not all the same."""
    scores = example.scorer(Observations(example.later))
    rows = len(next(iter(example.later.values())))
    example.require(scores.shape == (rows, 1), f"scores have shape {scores.shape}, not ({rows}, 1)")
    example.require(bool(np.isfinite(scores).all()), "a score of finite signals is NaN or infinite")
    example.require(len(np.unique(scores)) > 1, "every response has the same score")


def no_rows_have_no_scores(example: DetectorExample) -> None:
    """An empty batch is scored, too."""
    scores = example.scorer(Observations(example.later).take(slice(0, 0)))
    example.require(scores.shape == (0, 1), f"scores of no rows have shape {scores.shape}, not (0, 1)")


def a_row_scores_alike_in_any_batch(example: DetectorExample) -> None:
    """A response has the same score to the last bit in any batch, and wherever it lies in memory: thresholds are
    compared with scores that other batches had.
    """
    later = Observations(example.later)
    signals = {name: np.resize(later[name], (MOST_BATCH, *later[name].shape[1:])) for name in example.scorer.signals}
    same_in_any_batch(example.scorer, signals)


def what_is_not_finite_shows(example: DetectorExample) -> None:
    """A NaN or infinity is refused in fitting, by the signal's and the row's name; in serving it makes its row's score
    NaN or infinite, or the scorer says that it does not, and other rows' scores stay finite.
    """
    signals = {name: values.astype(float) for name, values in example.safe.items()}
    scorer = example.scorer
    for name in example.reads:
        for bad in (np.nan, np.inf):
            broken = {**signals, name: signals[name].copy()}
            broken[name].reshape(len(broken[name]), -1)[BROKEN_ROW, 1 if signals[name][0].size > 1 else 0] = bad
            words = example.refusal(broken, f"where signal '{name}' holds {bad}")
            example.require(
                f"'{name}'" in words and f"row {BROKEN_ROW}" in words,
                f"the error about {bad} must name the signal '{name}' and row {BROKEN_ROW}; it says: {words}",
            )
            scores = scorer(Observations(broken))[:, 0]
            example.require(
                not np.isfinite(scores[BROKEN_ROW]) or name in scorer.swallowed(), f"{bad} in '{name}' does not show"
            )
            example.require(
                bool(np.isfinite(np.delete(scores, BROKEN_ROW)).all()), f"{bad} in '{name}' spoils other rows' scores"
            )


def any_number_type_is_taken(example: DetectorExample) -> None:
    """Half precision and integers serve as signals."""
    halved = {name: values.astype(np.float16) for name, values in example.safe.items()}
    scores = example.fit(halved)(Observations(example.later))
    example.require(bool(np.isfinite(scores).all()), "fitted on float16, a score is NaN or infinite")


def rows_all_the_same_are_scored_or_refused(example: DetectorExample) -> None:
    """Signals without any variation give finite scores, or a SignalError that names the signal."""
    same = {name: np.repeat(values[:1], len(values), axis=0) for name, values in example.safe.items()}
    try:
        scorer = example.fit(same)
    except SignalError as error:
        example.require("'" in str(error), f"the error about rows that are all the same must name a signal: {error}")
    else:
        scores = scorer(Observations(same))
        example.require(bool(np.isfinite(scores).all()), "fitted on rows that are all the same, a score is not finite")


def too_little_is_refused(example: DetectorExample) -> None:
    """One row, and data without the signal, raise SignalError."""
    example.refusal({name: values[:1] for name, values in example.safe.items()}, "where there is one row")
    elsewhere = "something_else" if "something_else" not in example.reads else "nothing_that_is_read"
    words = example.refusal({elsewhere: np.eye(LEAST_ROWS)}, "where the signal is missing")
    example.require(
        any(f"'{name}'" in words for name in example.reads), f"the error must name the missing signal; it says: {words}"
    )


def the_same_data_and_seed_fit_the_same(example: DetectorExample) -> None:
    """Fitting again on the same data with the same seed gives the same scores to the last bit."""
    later = Observations(example.later)
    again = example.fit(example.safe)(later)
    example.require(
        bool(np.array_equal(example.scorer(later), again)), "fitted twice with the same seed, scores differ"
    )


def fitting_leaves_the_data_alone(example: DetectorExample) -> None:
    """Fitting changes none of the arrays it is given: other detectors are fitted on them next."""
    observations = Observations(example.safe)
    before = {name: observations[name].copy() for name in observations}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example.make().fit(observations)
    changed = [name for name in before if not np.array_equal(before[name], observations[name])]
    example.require(not changed, f"fit changes the values of {', '.join(changed)}")


CLAIMS: tuple[Callable[[DetectorExample], None], ...] = (
    scores_are_finite_numbers_that_differ,
    no_rows_have_no_scores,
    a_row_scores_alike_in_any_batch,
    what_is_not_finite_shows,
    any_number_type_is_taken,
    rows_all_the_same_are_scored_or_refused,
    too_little_is_refused,
    the_same_data_and_seed_fit_the_same,
    fitting_leaves_the_data_alone,
)


def same_in_any_batch(scorer: Scorer, signals: Mapping[str, NDArray[np.float32]]) -> None:
    """Raises AssertionError unless each of the rows scores alike to the last bit in batches of every size up to theirs,
    and 4 to 60 bytes beside an address that vector instructions like.
    """
    together = scorer.run(dict(signals))
    most = len(together)
    for size in range(1, most):
        start = 7 * size % (most - size + 1)
        part = {name: np.ascontiguousarray(values[start : start + size]) for name, values in signals.items()}
        np.testing.assert_array_equal(
            scorer.run(part),
            together[start : start + size],
            f"{', '.join(scorer.detectors)}: {size} rows from {start} score otherwise than in a batch of {most}",
        )
    for row in range(min(10, most)):
        alone = {name: values[row : row + 1] for name, values in signals.items()}
        np.testing.assert_array_equal(
            scorer.run(alone),
            together[row : row + 1],
            f"{', '.join(scorer.detectors)}: row {row} alone scores otherwise than in a batch of {most}",
        )
    few = min(37, most)
    for offset in range(0, 64, 4):
        part = {name: _lying_at(offset, values[:few]) for name, values in signals.items()}
        np.testing.assert_array_equal(
            scorer.run(part),
            together[:few],
            f"{', '.join(scorer.detectors)}: {offset} bytes off, rows score otherwise",
        )


def _lying_at(offset: int, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same values, `offset` bytes after an address that vector instructions like."""
    space = np.zeros(values.nbytes + 128, np.uint8)
    start = -space.ctypes.data % 64 + offset
    placed = space[start : start + values.nbytes].view(np.float32).reshape(values.shape)
    placed[:] = values
    return placed
