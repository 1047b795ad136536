"""Claims about the tails of detectors' scales: what the few largest scores of the scale set decide, and what not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import betabinom
from sklearn.neural_network import MLPClassifier

from tocsin.demo.digits import digits, unfamiliar_inputs
from tocsin_calibration import calibrate
from tocsin_calibration.content import arrays_of, facts_of, promise_from
from tocsin_calibration.thresholds.joint import JointScore, LogPValueScale
from tocsin_detectors import Observations, compile
from tocsin_detectors.registry import parse

FAILURE = 1e-4
DRAWS, FITTED = 100, 300
Scores = np.ndarray[tuple[int, int], np.dtype[np.float32]]


@pytest.fixture(scope="module")
def digit_scores() -> tuple[Scores, dict[str, Scores]]:
    """Scores by four detectors of the demo's model: of 450 safe digits to calibrate on, and of others by kind."""
    data = digits()
    network = MLPClassifier((64,), max_iter=400, alpha=1e-2, random_state=0).fit(data.train / 16, data.labels)

    def shown(images: np.ndarray) -> Observations:
        hidden = np.maximum(images / 16 @ network.coefs_[0] + network.intercepts_[0], 0)
        signals = {
            "probs": network.predict_proba(images / 16),
            "logits": hidden @ network.coefs_[1] + network.intercepts_[1],
            "hidden": hidden,
            "image": images,
        }
        return Observations({name: signal.astype(np.float32) for name, signal in signals.items()})

    recorded = shown(data.record)
    order = np.random.default_rng([1, 99]).permutation(recorded.rows)
    specs = ("entropy", "energy", "mahalanobis:hidden", "mahalanobis:image")
    scorer = compile([parse(spec) for spec in specs], fit_on=recorded.take(np.sort(order[:FITTED])))
    kinds = {"safe": data.safe, **unfamiliar_inputs(data.safe)}
    return scorer(recorded.take(np.sort(order[FITTED:]))), {kind: scorer(shown(rows)) for kind, rows in kinds.items()}


@pytest.mark.long
def test_no_draw_of_the_scale_set_costs_detection(digit_scores: tuple[Scores, dict[str, Scores]]) -> None:
    calibration, kinds = digit_scores
    for seed in range(DRAWS):
        promise = calibrate(calibration, {"warning": 0.05, "critical": 0.01}, seed=seed)
        limit = promise.thresholds["warning"]
        rates = {kind: float((promise.joint(scores) > limit).mean()) for kind, scores in kinds.items()}
        assert min(rates[kind] for kind in ("photo patches", "noise", "inverted")) >= 0.9, seed
        assert min(rates[kind] for kind in ("rotated", "half-covered", "MNIST digits")) > 2 * rates["safe"], seed


def test_the_promise_keeps_its_law_where_one_detector_has_a_heavy_tail() -> None:
    random = np.random.default_rng(7)

    def drawn(rows: int) -> np.ndarray:
        return np.stack([np.exp(2 * random.normal(size=rows)), random.normal(size=rows)], axis=1)

    outside = FAILURE / 40  # twenty calibration sets, two tails
    for seed in range(20):
        promise = calibrate(drawn(450), {"warning": 0.05}, seed=seed)
        law = promise.laws["warning"]
        alarms = sum(severity is not None for severity in promise.judge(drawn(1_000)).severities)
        assert betabinom.sf(alarms - 1, 1_000, law.n + 1 - law.k, law.k) > outside
        assert betabinom.cdf(alarms, 1_000, law.n + 1 - law.k, law.k) > outside


def test_no_single_score_of_the_scale_set_decides_what_a_far_score_is_worth() -> None:
    scores = np.random.default_rng(3).exponential(size=150)
    usual = LogPValueScale(scores)
    longer = np.append(np.sort(scores)[:-1], scores.max() + 10)
    far = float(scores.max()) + 5
    before = [LogPValueScale(reference, fits_tail=False) for reference in (scores, longer)]
    with_usual, with_longer = (JointScore(reference[:, None], "any").of([far])[0] for reference in (scores, longer))
    earlier, later = (_surprisal(scale, far) for scale in before)
    assert with_usual - with_longer < (earlier - later) / 2
    assert usual.score_at(with_usual) == pytest.approx(far)


@pytest.mark.parametrize(
    "reference",
    [
        np.zeros(60),
        np.repeat([0.0, 1.0], [57, 3]),
        np.repeat([0.0, 1.0, 2.0], [10, 20, 30]),
        np.repeat([0.0, 1e308, 1.7e308], [50, 5, 5]),
        np.repeat([0.0, 1e-300], [50, 10]),
        np.array([1.0, 2.0]),
    ],
)
def test_scales_of_scores_that_tie_or_are_extreme_increase(reference: np.ndarray) -> None:
    joint, top = JointScore(reference[:, None], "any"), float(reference.max())
    scores = sorted({*reference.tolist(), top / 2, *(top + step for step in (0.5, 1.0, 10.0)), top * (1 + 1e-9)})
    surprisals = [joint.of([score])[0] for score in scores]
    assert surprisals == sorted(surprisals) and not np.isnan(surprisals).any()
    assert joint(np.array(scores)[:, None])[0].tolist() == surprisals


def test_bundles_that_were_calibrated_on_the_earlier_scale_keep_it() -> None:
    promise = calibrate(np.random.default_rng(1).normal(size=(450, 2)), {"warning": 0.05})
    facts, arrays = facts_of(promise), arrays_of(promise)
    read = promise_from(facts, arrays, promise.detectors, "")
    earlier = promise_from({k: v for k, v in facts.items() if k != "fits_tails"}, arrays, promise.detectors, "")
    scores = promise.reference[-3:] * 1.01
    assert read.joint(scores).tolist() == promise.joint(scores).tolist()
    expected = JointScore(promise.reference, promise.rule, fits_tails=False)(scores)[0]
    assert earlier.joint(scores).tolist() == expected.tolist() != promise.joint(scores).tolist()
    assert read.fits_tails and not earlier.fits_tails and not facts_of(earlier)["fits_tails"]


def _surprisal(scale: LogPValueScale, score: float) -> float:
    piece = int(scale.knots.searchsorted(score))
    return float(scale.value[piece] + scale.slope[piece] * (score - scale.start[piece]))
