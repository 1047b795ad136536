"""Scores of every query of every rollout, by detectors fitted on safe rollouts that are used for nothing else."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rollouts import Rollout
from rollouts import read as read
from tasks import EXECUTED

from benchmarks.fiper.tried import Transition, clock
from benchmarks.report import console
from tocsin_detectors import Observations, compile
from tocsin_detectors.errors import SaturationWarning
from tocsin_detectors.registry import parse

FITTED = 60  # safe rollouts that detectors are fitted on
OF_ACTIONS = {
    "ACE, published cells": "ace,factor=0.03",
    "ACE, joint cells": "ace",
    "ACE, sum of dimensions": "ace,per_dimension=true",
    "sample variance": "sample_variance",
}
OF_EMBEDDINGS = {
    "RND": "rnd", "logpZO": "logpzo", "Mahalanobis": "mahalanobis", "PCA and k-means": "kmeans_distance",
}  # fmt: skip
TRIED = ("transition", "clock")
NAMES = (*OF_ACTIONS, "STAC", *TRIED, *OF_EMBEDDINGS)
AT_ONCE = 64


class Scored(NamedTuple):
    """One rollout: its mean embedding (E,), and scores (T, d) in the order of NAMES, one row a query."""

    kind: str
    success: bool
    embedding: NDArray[np.float32]
    scores: NDArray[np.float64]


def scored(path: Path, seeds: int) -> list[list[Scored]]:
    """For each seed of the detectors, all rollouts of a file but those that detectors were fitted on."""
    cached = path.with_suffix(".scores.npz")
    of_file = [path.stat().st_size, path.stat().st_mtime_ns, seeds]
    if cached.exists():
        with np.load(cached) as content:
            if content["of_file"].tolist() == of_file:
                return _apart(content)
    rollouts = read(path)
    safe = [rollout for rollout in rollouts if rollout.kind == "usual" and rollout.success]
    fit, fitted = safe[:FITTED], {id(rollout) for rollout in safe[:FITTED]}
    others = [rollout for rollout in rollouts if id(rollout) not in fitted]
    console.print(
        f"{path.stem}: scoring {sum(len(rollout.query_steps) for rollout in others):,} queries; kept for next time"
    )
    surprise = Transition(fit)
    tried = np.array([np.concatenate([of(rollout) for rollout in others]) for of in (surprise, clock)]).T
    of_actions = np.concatenate([_by_actions(fit, others), tried], axis=1)
    by_seed = [np.concatenate([of_actions, _by_embeddings(fit, others, seed)], axis=1) for seed in range(seeds)]
    np.savez(
        cached, of_file=of_file, by_seed=by_seed, kinds=[rollout.kind for rollout in others],
        success=[rollout.success for rollout in others], lengths=[len(rollout.query_steps) for rollout in others],
        embeddings=[rollout.embeddings.mean(axis=0) for rollout in others],
    )  # fmt: skip
    with np.load(cached) as content:
        return _apart(content)


def _apart(content: Mapping[str, NDArray[Any]]) -> list[list[Scored]]:
    ends = np.cumsum(content["lengths"])[:-1]
    facts = list(zip(content["kinds"].tolist(), content["success"].tolist(), content["embeddings"], strict=True))
    return [
        [Scored(*rollout, part) for rollout, part in zip(facts, np.split(columns, ends), strict=True)]
        for columns in content["by_seed"]
    ]


def _by_actions(fit: Sequence[Rollout], others: Sequence[Rollout]) -> NDArray[np.float64]:
    """(queries of `others`, scores of sampled actions)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SaturationWarning)
        some = _chunks(fit)[::4]
        scorers = [compile([parse(spec)], fit_on=Observations({"actions": some})) for spec in OF_ACTIONS.values()]
    chunks = _chunks(others)
    starts = range(0, len(chunks), AT_ONCE)
    by_scorer = [
        np.concatenate([scorer(Observations({"actions": chunks[at : at + AT_ONCE]})) for at in starts])
        for scorer in scorers
    ]
    pairs = compile(
        [parse(f"stac,executed={EXECUTED}")],
        fit_on=Observations({"actions": some, "previous_actions": _before(fit)[::4]}),
    )
    before = _before(others)
    stac = [
        pairs(Observations({"actions": chunks[at : at + AT_ONCE], "previous_actions": before[at : at + AT_ONCE]}))
        for at in starts
    ]
    first = np.concatenate([[True] + [False] * (len(rollout.query_steps) - 1) for rollout in others])
    overlaps = np.concatenate(stac).astype(np.float64)
    overlaps[first] = 0.0  # there is no chunk before
    return np.concatenate([*by_scorer, overlaps], axis=1).astype(np.float64)


def _by_embeddings(fit: Sequence[Rollout], others: Sequence[Rollout], seed: int) -> NDArray[np.float64]:
    """(queries of `others`, scores of embeddings)."""
    fitted_on = Observations({"embedding": np.concatenate([rollout.embeddings for rollout in fit])})
    scorer = compile([parse(spec) for spec in OF_EMBEDDINGS.values()], fit_on=fitted_on, seed=seed)
    scored_on = Observations({"embedding": np.concatenate([rollout.embeddings for rollout in others])})
    return scorer(scored_on).astype(np.float64)


def _chunks(rollouts: Sequence[Rollout]) -> NDArray[np.float32]:
    return np.concatenate([rollout.chunks for rollout in rollouts]).astype(np.float32)


def _before(rollouts: Sequence[Rollout]) -> NDArray[np.float32]:
    """The chunk before each, the first before itself."""
    return np.concatenate([rollout.chunks[[0, *range(len(rollout.chunks) - 1)]] for rollout in rollouts]).astype(
        np.float32
    )
