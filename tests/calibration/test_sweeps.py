"""A promise made in sweeps is the promise of all scores."""

import numpy as np
import pytest
from benchmarks.harness.parts import quick_bundle

from tocsin_calibration import Bundle, CalibrationError, Promise, calibrate
from tocsin_calibration.dividing import MAX_REFERENCE, reference_rows
from tocsin_calibration.sweeps import Responses, calibrate_in_sweeps, checked
from tocsin_calibration.thresholds.counting import Bracket, RankCounts
from tocsin_calibration.thresholds.joint import JointScore
from tocsin_calibration.thresholds.ordered import EXACT

N = 500_000


class Parts(Responses):
    """Scores in parts that are counted separately and merged in reverse order."""

    def __init__(self, parts, spoil=lambda counting: counting):
        self.parts, self.spoil, self.sweeps = parts, spoil, 0
        self.rows = sum(map(len, parts))

    def at(self, rows):
        return checked(np.concatenate(self.parts)[rows])

    def count(self, counting, without):
        counting = self.spoil(counting) if self.sweeps == 0 else counting
        self.sweeps += 1
        counts, end = RankCounts(counting.edges, counting.brackets), self.rows
        for part in reversed(self.parts):
            start = end - len(part)
            mine = without[(without >= start) & (without < end)] - start
            remaining = np.ones(len(part), bool)
            remaining[mine] = False
            counts.merge(counting.counted(np.array_split(part[remaining], 5)))
            end = start
        return counts


@pytest.fixture(scope="module")
def scores():
    return np.random.default_rng(0).gamma(2.0, size=(N, 2)).astype(np.float32)


@pytest.mark.long
@pytest.mark.parametrize("terms", [{}, {"confidence": 0.99}, {"contaminated": 0.001}, {"rule": "all"}])
def test_in_parts_and_in_memory_are_the_same_to_the_bit(scores, terms):
    in_memory = calibrate(scores, **terms)
    parts = calibrate_in_sweeps(Parts(np.array_split(scores, 9)), in_memory.alphas, **terms)
    assert parts.thresholds == in_memory.thresholds and parts.laws == in_memory.laws
    for mine, theirs in zip(parts.nonconformity, in_memory.nonconformity, strict=True):
        assert np.array_equal(mine, theirs)


@pytest.mark.long
def test_thresholds_are_those_of_sorting_all_scores(scores):
    promise = calibrate(scores)
    part_a = reference_rows(N, 0)
    assert len(part_a) == MAX_REFERENCE
    part_b = np.setdiff1d(np.arange(N), part_a)
    joint = np.sort(JointScore(np.sort(scores[part_a], axis=0), "any")(scores[part_b])[0])
    exact = Promise(promise.reference, joint, promise.alphas, "any", terms=promise.terms)
    assert promise.thresholds == exact.thresholds and promise.n == exact.n == len(joint)
    assert (
        promise.nonconformity.cumulative_counts is not None
        and EXACT < len(promise.nonconformity.scores) < EXACT + MAX_REFERENCE
    )
    fresh = np.random.default_rng(1).gamma(2.0, size=(20_000, 2))
    ours, theirs = promise.pvalues(fresh), exact.pvalues(fresh)
    assert (ours >= theirs).all() and (ours <= theirs * 1.02).all()
    assert promise.judge(fresh).severities == exact.judge(fresh).severities


@pytest.mark.long
def test_brackets_that_miss_cost_a_sweep_and_nothing_else(scores):
    parts = Parts(np.array_split(scores, 3), lambda counting: counting._replace(brackets=(Bracket(0.0, 1e-9),)))
    # A loose alpha: its threshold is not among the largest scores.
    promise = calibrate_in_sweeps(parts, {"loose": 0.8})
    assert parts.sweeps == 2
    assert promise.thresholds == calibrate(scores, {"loose": 0.8}).thresholds


@pytest.mark.long
def test_a_bundle_keeps_what_is_kept(scores, tmp_path):
    small = quick_bundle(tmp_path / "small.tocsin")
    columns = np.repeat(scores[:, :1], len(small.scorer.detectors), axis=1)
    promise = calibrate(columns, detectors=small.scorer.detectors)
    Bundle(small.scorer, promise).write(tmp_path / "large.tocsin")
    read = Bundle.read(tmp_path / "large.tocsin").require_promise()
    assert read.thresholds == promise.thresholds and read.n == promise.n
    fresh = np.random.default_rng(1).gamma(2.0, size=(1_000, len(small.scorer.detectors)))
    assert np.array_equal(read.pvalues(fresh), promise.pvalues(fresh))


def test_a_score_that_is_not_finite_is_told(scores):
    broken = scores[:100_000].copy()
    broken[::3] = np.nan
    with pytest.raises(CalibrationError, match="NaN or infinite score"):
        calibrate_in_sweeps(Parts([broken]), 0.05)
