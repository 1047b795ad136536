"""Claims that every built-in detector keeps: the contract that `tocsin.testing` has for others, too."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import spox.opset.ai.onnx.v18 as op

from tocsin.testing import check_detector, example_signals
from tocsin.testing.detector_example import ROWS, DetectorExample
from tocsin.testing.detectors import CLAIMS
from tocsin_detectors import Observations, SignalError, compile
from tocsin_detectors.registry import BUILT_IN, parse

QUICK = {"rnd": ",epochs=3", "logpzo": ",epochs=3", "quantile_aggregation": ",epochs=3"}
QUICK |= {"split_point_regression": ",epochs=3", "split_point_classification": ",epochs=3"}


@cache
def example(name: str) -> DetectorExample:
    """A built-in detector, fitted once for all claims."""
    return DetectorExample(name + QUICK.get(name, ""))


@pytest.mark.long
@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.__name__)
def test_every_detector_keeps_the_contract(claim: Callable[[DetectorExample], None], name: str) -> None:
    claim(example(name))


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_refused_by_signal_and_row(name: str, bad: float) -> None:
    safe = {signal: values.astype(float) for signal, values in example(name).safe.items()}
    for signal in example(name).reads:
        broken = {**safe, signal: safe[signal].copy()}
        broken[signal].reshape(ROWS, -1)[7, 1 if safe[signal][0].size > 1 else 0] = bad
        words = example(name).refusal(broken, "where a signal is not finite")
        assert f"'{signal}' holds NaN or infinity in 1 of 240 rows (the first is row 7" in words


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_missing_signal_is_refused_by_its_name(name: str) -> None:
    with pytest.raises(SignalError, match=f"there is no signal '({'|'.join(example(name).reads)})'"):
        parse(name).fit(Observations({"something_else": example_signals()["embedding"]}))


@pytest.mark.parametrize(
    "name", ["mahalanobis", "relative_mahalanobis", "pca_residual", "rnd", "gaussian_mixture", "knn", "vim"]
)
def test_fewer_rows_than_dimensions_are_no_obstacle(name: str) -> None:
    rng = np.random.default_rng(0)
    wide = {"embedding": rng.normal(size=(60, 100)), "logits": rng.normal(size=(60, 4))}
    scorer = DetectorExample(name + QUICK.get(name, ""), wide).scorer
    far = Observations({**wide, "embedding": 10 * rng.normal(size=(60, 100))})
    assert np.isfinite(scorer(far)).all()


@pytest.mark.long
def test_one_graph_of_everything() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        every = [parse(name + QUICK.get(name, "")) for name in BUILT_IN]
        scorer = compile(every, fit_on=Observations(example_signals()))
    assert scorer.detectors == tuple(BUILT_IN)
    assert np.isfinite(scorer(Observations(example_signals(1)))).all()


class Largest:
    """A detector of another author: max_d x_d. Its children break one claim each."""

    name, source = "largest", "a test"
    reads: tuple[str, ...] = ("embedding",)

    def fit(self, safe: Observations, *, seed: int = 0) -> Largest:
        del seed
        if safe.rows < 2:
            raise SignalError("fitting needs at least 2 rows")
        values = safe["embedding"]
        if broken := np.flatnonzero(~np.isfinite(values).all(axis=1)).tolist():
            raise SignalError(f"'embedding' holds NaN or infinity (the first is row {broken[0]})")
        return self

    def graph(self, x: op.Var) -> op.Var:
        nothing = op.mul(op.reduce_sum(x, AXIS), op.const(np.float32(0)))  # NaN where some of it is not finite
        return op.add(op.reduce_max(x, AXIS), nothing)


AXIS = op.const(np.array([1]))


class Nameless(Largest):
    name = ""


class ReadsElsewhere(Largest):
    reads = ("nowhere",)


class Constant(Largest):
    def graph(self, x: op.Var) -> op.Var:
        zero = op.const(np.float32(0))
        return op.mul(super().graph(x), zero)


class ByBatch(Largest):
    """A detector whose score of a row depends on the other rows of the batch."""

    def graph(self, x: op.Var) -> op.Var:
        return op.sub(super().graph(x), op.reduce_mean(x, op.const(np.array([0, 1]))))


class Crash(Largest):
    def fit(self, safe: Observations, *, seed: int = 0) -> Crash:
        if safe.rows < 2:
            raise IndexError("no second row")
        super().fit(safe)
        return self


class TakesAnything(Largest):
    def fit(self, safe: Observations, *, seed: int = 0) -> TakesAnything:
        return self


class Restless(Largest):
    """A detector that learns something else in each fit."""

    fits = 0

    def fit(self, safe: Observations, *, seed: int = 0) -> Restless:
        super().fit(safe)
        Restless.fits += 1
        self.offset = float(Restless.fits)
        return self

    def graph(self, x: op.Var) -> op.Var:
        return op.add(super().graph(x), op.const(np.float32(self.offset)))


class Changes(Largest):
    def fit(self, safe: Observations, *, seed: int = 0) -> Changes:
        super().fit(safe)
        safe["embedding"][0] = 0
        return self


class Spoils(Largest):
    """A detector that spreads a NaN in one row to all rows."""

    def graph(self, x: op.Var) -> op.Var:
        everywhere = op.mul(op.reduce_sum(x, op.const(np.array([0, 1]))), op.const(np.float32(0)))
        return op.add(super().graph(x), everywhere)


class Wide(Largest):
    def graph(self, x: op.Var) -> op.Var:
        return x


@pytest.mark.long
def test_another_authors_detector_is_checked_by_class_and_on_signals_of_its_own() -> None:
    check_detector(Largest)
    rng = np.random.default_rng(0)
    check_detector(Largest, {"embedding": rng.normal(size=(50, 3))}, {"embedding": rng.normal(size=(20, 3))})
    check_detector("mahalanobis:hidden", {"hidden": rng.normal(size=(50, 3))})


@pytest.mark.parametrize(
    ("detector", "words"),
    [
        (Nameless, "name must be the detector's name on metrics"),
        (ReadsElsewhere, "reads nowhere, which `safe` does not hold"),
        (Constant, "every response has the same score"),
        (ByBatch, "largest: 1 rows from 7 score otherwise than in a batch of 300"),
        (Crash, "fit must raise SignalError where there is one row, not IndexError: no second row"),
        (TakesAnything, "fit must raise SignalError where signal 'embedding' holds nan, and took the data"),
        (Restless, "fitted twice with the same seed, scores differ"),
        (Changes, "fit changes the values of embedding"),
        (Spoils, "nan in 'embedding' spoils other rows' scores"),
        (Wide, "the example's data cannot be fitted and compiled: the graph has 6 scores but names 1 detectors"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_detector_that_breaks_a_claim_is_refused_by_name(detector: type[Largest], words: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(words)):
        check_detector(detector)


def test_too_few_rows_to_check_on_are_refused() -> None:
    with pytest.raises(AssertionError, match="`safe` must have at least 20 rows"):
        check_detector("mahalanobis", {"embedding": np.eye(5)})
