"""Which calls are asked about: a share of them, drawn at random, by their trace where they have one."""

from __future__ import annotations

import random
from hashlib import blake2b
from pathlib import Path

from tocsin.errors import ConfigError

SCALE = 1 << 64


class Sampler:
    """Draws calls with probability `share`. Calls of one trace are drawn together: by a keyed hash of the model's name
    and the trace, so that replicas with the same key agree and a caller without it cannot tell. Calls without a trace
    are drawn one by one.
    """

    def __init__(self, model: str, share: float, key: bytes) -> None:
        self._share = share
        self._below = round(share * SCALE)
        self._model = model.encode()
        self._key = key

    def draws(self, trace: str) -> bool:
        """Whether a call with that trace id, "" for none, is drawn."""
        if not trace:
            return random.random() < self._share
        digest = blake2b(self._model + b"\0" + trace.encode(), digest_size=8, key=self._key).digest()
        return int.from_bytes(digest, "big") < self._below


def read_key(path: Path) -> bytes:
    """The key in a file, 16 to 64 bytes. Raises ConfigError."""
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"second_opinion.sampling_key: {path}: cannot be read ({error.strerror})") from None
    if not 16 <= len(key) <= 64:
        raise ConfigError(f"second_opinion.sampling_key: {path}: must hold 16 to 64 bytes, not {len(key)}")
    return key
