"""Scores of every query of every rollout, by detectors fitted on safe rollouts that are used for nothing else."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import console
from tocsin_detectors import Observations, compile
from tocsin_detectors.errors import SaturationWarning
from tocsin_detectors.registry import parse

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "robot"))
from rollouts import Rollout, read

FITTED = 60  # safe rollouts that detectors are fitted on
EXECUTED = 8
OF_ACTIONS = {
    "ACE, published cells": "ace,factor=0.03",
    "ACE, joint cells": "ace",
    "ACE, sum of dimensions": "ace,per_dimension=true",
    "sample variance": "sample_variance",
}
OF_EMBEDDINGS = {
    "RND": "rnd", "logpZO": "logpzo", "Mahalanobis": "mahalanobis", "PCA and k-means": "kmeans_distance",
}  # fmt: skip
AT_ONCE = 64


class Scored(NamedTuple):
    """One rollout: scores (T, d), one row a query."""

    kind: str
    success: bool
    scores: NDArray[np.float64]


def scored(folder: Path, task: str, seed: int) -> tuple[list[str], list[Scored]]:
    """Names of the scores, and all rollouts but those that detectors were fitted on."""
    rollouts = read(folder / f"{task}.npz")
    safe = [one for one in rollouts if one.kind == "usual" and one.success]
    fit, fitted = safe[:FITTED], {id(one) for one in safe[:FITTED]}
    others = [one for one in rollouts if id(one) not in fitted]
    kept = folder / f"{task}.actions.npz"
    if not kept.exists():
        console.print(f"{task}: scoring {sum(len(one.asked) for one in others):,} queries by their actions")
        np.savez(kept, of_actions=_by_actions(fit, others))
    with np.load(kept) as content:
        of_actions = content["of_actions"]
    names, of_embeddings = _by_embeddings(fit, others, seed)
    columns = np.concatenate([of_actions, of_embeddings], axis=1)
    ends = np.cumsum([len(one.asked) for one in others])
    parts = np.split(columns, ends[:-1])
    found = [Scored(one.kind, one.success, part) for one, part in zip(others, parts, strict=True)]
    return [*OF_ACTIONS, "STAC", *names], found


def _by_actions(fit: Sequence[Rollout], others: Sequence[Rollout]) -> NDArray[np.float64]:
    """(queries of `others`, scores of sampled actions)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SaturationWarning)
        some = _chunks(fit)[::4]
        scorers = [compile([parse(spec)], fit_on=Observations({"actions": some})) for spec in OF_ACTIONS.values()]
    chunks = _chunks(others)
    starts = range(0, len(chunks), AT_ONCE)
    found = [
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
    first = np.concatenate([[True] + [False] * (len(one.asked) - 1) for one in others])
    told = np.concatenate(stac).astype(np.float64)
    told[first] = 0.0  # there is no chunk before
    return np.concatenate([*found, told], axis=1).astype(np.float64)


def _by_embeddings(
    fit: Sequence[Rollout], others: Sequence[Rollout], seed: int
) -> tuple[list[str], NDArray[np.float64]]:
    seen = Observations({"embedding": np.concatenate([one.embeddings for one in fit])})
    scorer = compile([parse(spec) for spec in OF_EMBEDDINGS.values()], fit_on=seen, seed=seed)
    whole = Observations({"embedding": np.concatenate([one.embeddings for one in others])})
    return list(OF_EMBEDDINGS), scorer(whole).astype(np.float64)


def _chunks(rollouts: Sequence[Rollout]) -> NDArray[np.float32]:
    return np.concatenate([one.chunks for one in rollouts]).astype(np.float32)


def _before(rollouts: Sequence[Rollout]) -> NDArray[np.float32]:
    """The chunk before each, the first before itself."""
    return np.concatenate([one.chunks[[0, *range(len(one.chunks) - 1)]] for one in rollouts]).astype(np.float32)
