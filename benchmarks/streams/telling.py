"""What each score tells of wrong answers, what selecting by it is worth, and whether a guaranteed risk is kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from scipy.stats import binom

from benchmarks.report import Check, console
from benchmarks.streams.answers import SAMPLES, Answer
from benchmarks.streams.by_task import add_row, separation_by_task
from benchmarks.streams.signals import observed, several
from tocsin_calibration import learn_then_test
from tocsin_calibration.evaluation.metrics import risk_coverage
from tocsin_calibration.risk.decision import Costs, fit_risk_policy
from tocsin_detectors import compile
from tocsin_detectors.features import Features
from tocsin_detectors.registry import parse

Float64 = NDArray[np.float64]
OF_TOKENS = ["mean_surprisal", "max_surprisal", "windowed_surprisal", "token_entropy", "repetition"]
OF_SAMPLES = ["semantic_entropy", "embedding_disagreement", "lexical_disagreement", "predictive_entropy"]
BASELINE = "sequence probability"  # max-probability: how unlikely the answer is as a whole
DRAWS, DELTA, FAILURE = 300, 0.1, 1e-4


def token_scores(answers: Sequence[Answer]) -> dict[str, Float64]:
    """Scores of whole answers, (n,) each, by the graph that a bundle would have."""
    observations = observed(answers)
    scorer = compile([parse(name) for name in OF_TOKENS], fit_on=observations)
    columns = scorer(observations).astype(np.float64).T
    by_score = dict(zip(scorer.detectors, columns, strict=True))
    by_score[BASELINE] = np.array([-float(answer.logprobs.sum()) for answer in answers])
    return by_score


def sample_scores(answers: Sequence[Answer], embedder: Path) -> dict[str, Float64]:
    """Scores of questions by several answers to each, (questions,) each."""
    observations = several(answers, SAMPLES)
    features = [Features("answer_embeddings", embedder)]
    specs = [f"{name},samples={SAMPLES}" if "embeddings" in parse(name).reads[0] else name for name in OF_SAMPLES]
    scorer = compile([parse(spec) for spec in specs], fit_on=observations.take(slice(0, 64)), features=features)
    parts = [scorer(observations.take(slice(at, at + 16))) for at in range(0, observations.rows, 16)]
    return dict(zip(scorer.detectors, np.concatenate(parts).astype(np.float64).T, strict=True))


def tell(answers: Sequence[Answer], sampled: Sequence[Answer], embedder: Path) -> tuple[dict[str, Any], list[Check]]:
    """AUROC for wrong answers with intervals, over all questions and within tasks."""
    wrong = np.array([not answer.right for answer in answers])
    tasks = np.array([answer.question.task for answer in answers])
    by_score = token_scores(answers)
    title = f"Wrong answers told, {len(answers):,} questions, {wrong.mean():.0%} answered wrongly"
    table = Table("score", "AUROC", "95% interval", "within tasks", title=title)
    results: dict[str, Any] = {"questions": len(answers), "wrong": float(wrong.mean())}
    for name, scores in by_score.items():
        results[name] = separation_by_task(scores, wrong, tasks)
        add_row(table, name, results[name])
    place = {answer.question.prompt: at for at, answer in enumerate(answers)}
    rows = np.array([place[answer.question.prompt] for answer in sampled[::SAMPLES]])
    by_samples = sample_scores(sampled, embedder) | {f"{n}, the same": s[rows] for n, s in by_score.items()}
    title_of_samples = f"Wrong answers told by {SAMPLES} samples, {len(rows)} of the questions"
    of_samples = Table("score", "AUROC", "95% interval", "within tasks", title=title_of_samples)
    for name, scores in by_samples.items():
        results[f"{name} ({SAMPLES} samples)"] = separation_by_task(scores, wrong[rows], tasks[rows])
        add_row(of_samples, name, results[f"{name} ({SAMPLES} samples)"])
    console.print(table, of_samples)
    low = max(results[name]["interval"][0] for name in by_score)
    return results, [
        Check("questions answered", len(answers), ">= 1500", len(answers) >= 1500),
        Check("AUROC of the best score, lower end", round(low, 4), "> 0.5", low > 0.5),
    ]


def select(answers: Sequence[Answer]) -> tuple[dict[str, Any], list[Check]]:
    """Risk and coverage of each score, a guaranteed risk over many draws, and what answering is worth."""
    wrong = np.array([not answer.right for answer in answers])
    by_score = token_scores(answers)
    base = float(wrong.mean())
    table = Table("score", "AURC", "risk at 20% coverage", title=f"Risk and coverage; at random both are {base:.3f}")
    results: dict[str, Any] = {"at random": base}
    for name, scores in by_score.items():
        curve = risk_coverage(scores, wrong)
        few = np.argsort(scores, kind="stable")[: len(scores) // 5]
        results[name] = {"aurc": curve.aurc, "risk at 20%": float(wrong[few].mean())}
        table.add_row(name, f"{curve.aurc:.3f}", f"{wrong[few].mean():.3f}")
    console.print(table)
    columns = np.stack([by_score[name] for name in OF_TOKENS], axis=1)
    best = min(OF_TOKENS, key=lambda name: results[name]["aurc"])
    guaranteed, checks = _guaranteed(by_score[best], wrong, base)
    worth, more = _worth(columns, wrong)
    aurc = results[best]["aurc"]
    checks += [Check("AURC of the best score against random", round(aurc / base, 4), "< 1", aurc < base), *more]
    return results | {"best": best, "guaranteed": guaranteed, "worth": worth}, checks


def _guaranteed(scores: Float64, wrong: NDArray[np.bool_], base: float) -> tuple[dict[str, Any], list[Check]]:
    """Learn-then-Test over draws of a calibration half: how often the other half shows more risk than allowed."""
    results, checks = {}, []
    title = f"Risk among served answers, allowed with confidence {1 - DELTA:.0%}; {DRAWS} draws"
    table = Table("risk allowed", "exceeded in", "mean risk", "mean coverage", "cannot", title=title)
    for share in (0.5, 0.7, 0.9):
        allowed = round(share * base, 3)
        exceeded, cannot, risks, coverages = 0, 0, [], []
        for draw in range(DRAWS):
            order = np.random.default_rng([5, draw]).permutation(len(scores))
            calibration, fresh = np.array_split(order, 2)
            guarantee = learn_then_test(scores[calibration], wrong[calibration], allowed, DELTA, seed=draw)
            served = scores[fresh] <= (-np.inf if guarantee.threshold is None else guarantee.threshold)
            cannot += guarantee.threshold is None
            coverages.append(float(served.mean()))
            if served.any():
                risks.append(float(wrong[fresh][served].mean()))
                exceeded += risks[-1] > allowed
        mean = float(np.mean(risks)) if risks else 0.0
        row = {
            "exceeded": exceeded / DRAWS,
            "risk": mean,
            "coverage": float(np.mean(coverages)),
            "cannot": cannot / DRAWS,
        }
        results[f"{allowed:g}"] = row
        table.add_row(
            f"{allowed:g}", f"{row['exceeded']:.1%}", f"{mean:.3f}", f"{row['coverage']:.1%}", f"{row['cannot']:.0%}"
        )
        limit = int(binom.ppf(1 - FAILURE, DRAWS, DELTA))
        checks.append(Check(f"draws that exceed risk {allowed:g}", exceeded, f"<= {limit}", exceeded <= limit))
    console.print(table)
    return results, checks


def _worth(columns: Float64, wrong: NDArray[np.bool_]) -> tuple[dict[str, Any], list[Check]]:
    """The DCS of answering everything and of Tocsin's policy, one point right, one point wrong, none for abstaining."""
    always, policy, hindsight = [], [], []
    for draw in range(20):
        order = np.random.default_rng([6, draw]).permutation(len(wrong))
        calibration, fresh = np.array_split(order, 2)
        decided = fit_risk_policy(columns[calibration], ~wrong[calibration], seed=draw).weigh(columns[fresh], Costs())
        value = np.where(wrong[fresh], -1.0, 1.0)
        served = np.array([decision == "serve" for decision in decided.decisions])
        always.append(float(value.mean()))
        policy.append(float((value * served).mean()))
        hindsight.append(float(np.maximum(value, 0).mean()))
    values_of = {
        "always answer": float(np.mean(always)),
        "policy": float(np.mean(policy)),
        "perfect knowledge": float(np.mean(hindsight)),
    }
    table = Table("", "DCS", title="What answering is worth (mean of 20 halves)")
    for name, mean in values_of.items():
        table.add_row(name, f"{mean:+.3f}")
    console.print(table)
    better = values_of["policy"] - values_of["always answer"]
    return {**values_of}, [
        Check("DCS of the policy above that of answering everything", round(better, 4), "> 0", better > 0)
    ]
