"""The key that draws the same calls at every replica."""

from __future__ import annotations

from pathlib import Path

from tocsin.errors import ConfigError


def read_key(path: Path) -> bytes:
    """The key in a file, 16 to 64 bytes. Raises ConfigError."""
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"second_opinion.sampling_key: {path}: cannot be read ({error.strerror})") from None
    if not 16 <= len(key) <= 64:
        raise ConfigError(f"second_opinion.sampling_key: {path}: must hold 16 to 64 bytes, not {len(key)}")
    return key
