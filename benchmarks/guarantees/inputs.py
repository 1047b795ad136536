"""Changes of inputs: false ones, harmless ones and harmful ones, on embeddings of real models.

Calibration and live responses are drawn from the same ones at random, one like the other. Harmless: rows that lie high
along the inputs' widest direction come more often, but each tenth of the joint scores as often as before. Harmful: a
share of the responses is of the shifted traffic of the pair.
"""

from __future__ import annotations

import time
from math import log
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from scipy.stats import binom

from benchmarks.judge import FAILURE
from benchmarks.report import Check, at_most, console
from benchmarks.shifts import embedded_pairs
from tocsin.replay.replay import features_of, tally_of
from tocsin.sinks.evidence import Evidence
from tocsin.sinks.finding import Finding
from tocsin_calibration import Promise, calibrate
from tocsin_calibration.online.inputs import BLOCK, STRIDE, InputsReference, InputsTest
from tocsin_detectors import Observations, compile
from tocsin_detectors.registry import parse

DELTA, ALPHA, LOOK, MOST = 0.01, 0.05, STRIDE * BLOCK, 8_192
FITTED, CALIBRATION, DIRECTIONS = 300, 900, 300
LEVELS, SHARE = 10, 0.3  # of scores that stay as they are; of shifted responses
WORDS = ("inputs changed, alarms as promised", "inputs changed, and scores too", "inputs changed, and alarms too")
Rows = NDArray[np.float32]


class Source(NamedTuple):
    """Embeddings and scores of safe responses (N, E) and (N, d), and of shifted ones."""

    name: str
    inputs: Rows
    scores: Rows
    shifted_inputs: Rows
    shifted_scores: Rows


def everything(runs: int) -> tuple[dict[str, Any], list[Check]]:
    """`runs` of each kind on every source; the cost of a response."""
    sources = [_source(*pair) for pair in embedded_pairs() if pair[1].rows >= FITTED + 300]
    results: dict[str, Any] = {"sources": [source.name for source in sources]}
    results["cost"], checks = _cost()
    table = Table("inputs", "runs", "found", "responses, median", *WORDS, title=f"Inputs, delta = {DELTA:g}")
    for kind in ("calm", "harmless", "harmful"):
        outcomes = [_run(source, kind, [71, at, run]) for at, source in enumerate(sources) for run in range(runs)]
        detections = [outcome for outcome in outcomes if outcome is not None]
        said = [sum(words == of_run for _, of_run in detections) for words in WORDS]
        delay = float(np.median([delay for delay, _ in detections])) if detections else None
        table.add_row(
            kind, f"{len(outcomes)}", f"{len(detections)}", "-" if delay is None else f"{delay:,.0f}", *map(str, said)
        )
        results[kind] = {"runs": len(outcomes), "found": len(detections), "delay": delay, "said": said}
        if kind == "calm":
            chance = float(binom.sf(len(detections) - 1, len(outcomes), DELTA))
            checks.append(
                Check(f"calm inputs: runs of {len(outcomes)} ever called changed", len(detections),
                      f"chance > {FAILURE:g}", chance > FAILURE)
            )  # fmt: skip
            continue
        right = said[0] if kind == "harmless" else said[1] + said[2]
        checks += [
            Check(f"{kind} changes: found", round(len(detections) / len(outcomes), 4), ">= 0.9",
                  len(detections) >= 0.9 * len(outcomes)),
            Check(f"{kind} changes: told as such", round(right / max(1, len(detections)), 4), ">= 0.9",
                  right >= 0.9 * len(detections)),
        ]  # fmt: skip
    console.print(table)
    return results, checks


def _source(name: str, safe: Observations, shifted: Observations) -> Source:
    of_logits = ("energy",) if "logits" in safe.names() else ()
    specs = [parse(spec) for spec in (*of_logits, "mahalanobis")]
    scorer = compile(specs, fit_on=safe.take(np.arange(min(FITTED, safe.rows // 3))))
    rest = safe.take(np.arange(min(FITTED, safe.rows // 3), safe.rows))
    return Source(name, rest["embedding"], scorer(rest), shifted["embedding"], scorer(shifted))


def _run(source: Source, kind: str, seed: list[int]) -> tuple[int, str] | None:
    """Responses until inputs are called changed, and what is said of alarms then, or LOOK responses later at least;
    None where that is not within MOST.
    """
    random = np.random.default_rng(seed)
    calibration = random.integers(len(source.inputs), size=CALIBRATION)
    promise = calibrate(source.scores[calibration], {"alarm": ALPHA}, seed=seed[-1])
    promise.inputs = InputsReference.of(
        ("embedding",), source.inputs[calibration[:DIRECTIONS]], source.inputs[calibration[DIRECTIONS:]], seed[-1]
    )
    draw = _Draw(source, promise, kind, random)
    evidence = Evidence(promise, 1_000, fixed=True, seed=seed[-1])
    limits = log(1 / DELTA), log(1 / DELTA)
    is_found, delay = False, 0
    for number in range(1, MOST // LOOK + 1):
        inputs, scores = draw(LOOK)
        judged = promise.judge(scores)
        shown = features_of(promise, inputs)
        evidence.read(tally_of(promise, judged.severities, None, judged.joint, scores, inputs=shown))
        log_evalue = evidence.inputs()
        assert log_evalue is not None
        if log_evalue > limits[1] and not is_found:
            is_found, delay = True, number * LOOK
        if is_found and (kind == "calm" or number * LOOK >= max(2 * delay, 2_000) or number == MOST // LOOK):
            finding = Finding.of(
                evidence, evidence.promise(), evidence.drift(), evidence.causes(), limits, "responses", limits[1] + 1
            )
            assert finding is not None
            return delay, finding.of_inputs()
    return None


class _Draw:
    """Live responses of a kind."""

    def __init__(self, source: Source, promise: Promise, kind: str, random: np.random.Generator) -> None:
        self._source, self._kind, self._random = source, kind, random
        joint = promise.joint(source.scores)
        order = joint.argsort(kind="stable").argsort(kind="stable")
        levels = order * LEVELS // len(order)
        centred = source.inputs - source.inputs.mean(axis=0)
        places = centred @ np.linalg.svd(centred[:1_000], full_matrices=False)[2][0]
        self._pools = [np.flatnonzero(levels == level) for level in range(LEVELS)]
        self._high = [pool[places[pool] >= np.median(places[pool])] for pool in self._pools]

    def __call__(self, rows: int) -> tuple[Rows, Rows]:
        source, random = self._source, self._random
        if self._kind == "harmless":
            chosen = np.array([
                random.choice((self._high if random.random() < 0.8 else self._pools)[level])
                for level in random.integers(LEVELS, size=rows)
            ])  # fmt: skip
        else:
            chosen = random.integers(len(source.inputs), size=rows)
        inputs, scores = source.inputs[chosen].copy(), source.scores[chosen].copy()
        if self._kind == "harmful":
            other = np.flatnonzero(random.random(rows) < SHARE)
            picked = random.integers(len(source.shifted_inputs), size=len(other))
            inputs[other], scores[other] = source.shifted_inputs[picked], source.shifted_scores[picked]
        return inputs, scores


def _cost() -> tuple[dict[str, float], list[Check]]:
    """CPU seconds of this process, a response: of projecting and of betting, every STRIDE-th response."""
    results, checks = {}, []
    for width in (64, 512):
        random = np.random.default_rng(0)
        reference = InputsReference.of(("e",), *random.normal(size=(2, 600, width)).astype(np.float32))
        test, live = InputsTest(reference, 0), random.normal(size=(2 * BLOCK, width)).astype(np.float32)
        rounds = []
        for _ in range(5):
            began = time.process_time()
            for _ in range(200):
                test.add(reference.features(live).astype(np.float32).astype(np.float64))
            rounds.append((time.process_time() - began) / (200 * len(live) * STRIDE))
        results[f"{width} numbers"] = min(rounds)
        checks.append(at_most(f"inputs of {width} numbers: microseconds a response", min(rounds) * 1e6, 2.0))
    return results, checks
