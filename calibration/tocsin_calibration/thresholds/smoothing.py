"""Smoothed p-values: exactly uniform under exchangeability, ties and all, and reproducible response by response.

p = (#{s_i > s} + U (1 + #{s_i = s})) / (n + 1) with U uniform on (0, 1) (Vovk, Gammerman and Shafer 2005). U is
drawn from the response's identifier and a seed by a keyed hash, so that the same response always has the same
p-value, wherever and whenever it is computed, and nobody can shop for a better one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tocsin_calibration.thresholds.ordered import Ordered

Float64 = NDArray[np.float64]


def uniforms(identifiers: Iterable[str | bytes | int], seed: int = 0) -> Float64:
    """One number in (0, 1) for each identifier, the same for ever; different ones for different seeds.

    >>> first, same, other = uniforms(["a"], seed=1), uniforms(["a"], seed=1), uniforms(["a"], seed=2)
    >>> bool(first == same), bool(first == other)
    (True, False)
    """
    key = seed.to_bytes(8, "little", signed=True)
    drawn = [hashlib.blake2b(_bytes(identifier), digest_size=8, key=key).digest() for identifier in identifiers]
    words = np.frombuffer(b"".join(drawn), "<u8") >> np.uint64(11)
    return (words.astype(np.float64) + 0.5) / 2.0**53


def smoothed_pvalues(calibration: Float64 | Ordered, scores: ArrayLike, u: ArrayLike) -> Float64:
    """P-values (m,) in (0, 1) of scores (m,) against sorted calibration scores (n,); u (m,) in (0, 1).

    Exactly uniform when scores and calibration are exchangeable and u is independent of them.

        >>> import numpy as np
        >>> smoothed_pvalues(np.array([1.0, 2, 2, 4]), [2.0, 9.0], u=[0.5, 0.5]).tolist()
        [0.5, 0.1]
    """
    values = np.asarray(scores, np.float64)
    ordered = calibration if isinstance(calibration, Ordered) else Ordered(calibration, len(calibration))
    above, at_least = ordered.n - ordered.at_most(values), ordered.n - ordered.below(values)
    return np.asarray((above + np.asarray(u) * (1 + at_least - above)) / (ordered.n + 1.0), np.float64)


def seed_of(content: bytes, seed: int = 0) -> int:
    """A number below 2^48 that stands for this content and seed, to draw auxiliary uniform numbers from."""
    key = seed.to_bytes(8, "little", signed=True)
    return int.from_bytes(hashlib.blake2b(content, digest_size=6, key=key).digest(), "little")


def _bytes(identifier: str | bytes | int) -> bytes:
    return identifier if isinstance(identifier, bytes) else str(identifier).encode()
