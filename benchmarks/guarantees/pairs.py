"""Real models on real data: what their detectors score on rows that they never saw. All in packages' own files."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier

from benchmarks.shifts import mnist

Rows = NDArray[np.float64]
MOST = 20_000  # rows of one data set


class Pair(NamedTuple):
    """One model on one data set, on rows held out from its fit, shuffled."""

    name: str
    scores: Rows  # (N, 3): entropy, 1 - largest probability, Mahalanobis distance of the input
    correct: NDArray[np.bool_]  # (N,)
    labels: NDArray[np.intp]  # (N,) the true class
    said: NDArray[np.intp]  # (N,) the model's
    inputs: Rows  # (N, D)


class Course(NamedTuple):
    """Sessions of one data set: each step's two scores, one array (T, 2) a session, shuffled."""

    name: str
    sessions: list[Rows]


def pairs() -> Iterator[Pair]:
    """Every model on every data set."""
    for data, x, y in _data():
        order = np.random.default_rng(0).permutation(len(x))[:MOST]
        x, y = x[order], y[order]
        fit = min(2_000, int(0.3 * len(x)))
        mean, scale = x[:fit].mean(axis=0), x[:fit].std(axis=0) + 1e-9
        x = (x - mean) / scale
        distance = LedoitWolf().fit(x[:fit]).mahalanobis(x[fit:])
        for model in (
            LogisticRegression(max_iter=300),
            MLPClassifier((32,), max_iter=200, random_state=0),
            GaussianNB(var_smoothing=0.1),
        ):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # not converged is as good as any for a model to watch
                model.fit(x[:fit], y[:fit])
            probs = np.clip(model.predict_proba(x[fit:]), 1e-12, 1)
            entropy = -(probs * np.log(probs)).sum(axis=1)
            said = model.classes_[probs.argmax(axis=1)]
            scores = np.stack([entropy, 1 - probs.max(axis=1), distance], axis=1)
            yield Pair(f"{data} / {type(model).__name__}", scores, said == y[fit:], y[fit:], said, x[fit:])


def courses() -> Iterator[Course]:
    """Time series as sessions: how far each step lies from those of other series, by two distances."""
    folder = _aeon()
    for name in ("JapaneseVowels", "ItalyPowerDemand", "OSULeaf", "ArrowHead", "GunPoint"):
        series = [s for part in ("TRAIN", "TEST") for s in _read_ts(folder / name / f"{name}_{part}.ts")]
        order = np.random.default_rng(0).permutation(len(series))
        series = [series[at][::5] if len(series[at]) > 100 else series[at] for at in order]  # long ones thinned
        fit = len(series) // 4
        steps = np.concatenate(series[:fit])
        change = np.concatenate([np.diff(s, axis=0, prepend=s[:1]) for s in series[:fit]])
        level, speed = LedoitWolf().fit(steps), LedoitWolf().fit(change)
        yield Course(
            name,
            [
                np.stack([level.mahalanobis(s), speed.mahalanobis(np.diff(s, axis=0, prepend=s[:1]))], axis=1)
                for s in series[fit:]
            ],
        )


def yeast() -> tuple[Rows, NDArray[np.bool_]]:
    """Scores (N, 14) in [0, 1] of a model of each label, and the true label sets, on rows held out."""
    from river import datasets

    rows = list(datasets.Yeast())
    x = np.array([list(features.values()) for features, _ in rows], float)
    y = np.array([list(labels.values()) for _, labels in rows], bool)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], y[order]
    scores = [
        LogisticRegression(max_iter=300, C=0.1).fit(x[:900], column[:900]).predict_proba(x[900:])[:, 1]
        for column in y.T
    ]
    return np.stack(scores, axis=1), y[900:]


def _data() -> Iterator[tuple[str, Rows, NDArray[np.intp]]]:
    from river import datasets

    for name, load in (("digits", load_digits), ("breast cancer", load_breast_cancer), ("wine", load_wine)):
        data = load()
        yield name, data.data.astype(np.float64), data.target
    images, digits = mnist()
    varying = images[:, images.std(axis=0) > 0].reshape(len(images), -1)[:, ::4]
    yield "MNIST", varying.astype(np.float64), digits.astype(int)
    for name in ("Shuttle", "Bananas", "ImageSegments", "Phishing"):
        x, y = _table(getattr(datasets, name)())
        yield name, x, y


def _table(dataset: Any) -> tuple[Rows, NDArray[np.intp]]:
    rows = list(dataset)
    _, classes = np.unique([str(label) for _, label in rows], return_inverse=True)
    return np.array([list(features.values()) for features, _ in rows], float), classes


def _aeon() -> Path:
    spec = find_spec("aeon")
    if spec is None or spec.origin is None:
        raise SystemExit("time series are missing: `make guarantees` installs them")
    return Path(spec.origin).parent / "datasets" / "data"


def _read_ts(path: Path) -> Iterator[Rows]:
    """The series of a .ts file, (T, dimensions) each: values by comma, dimensions by colon, the class at the end."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    start = next(at for at, line in enumerate(lines) if line.strip().lower() == "@data")
    for line in lines[start + 1 :]:
        dimensions = line.strip().split(":")[:-1]
        if dimensions:
            yield np.array([[float(value) for value in dimension.split(",")] for dimension in dimensions]).T
