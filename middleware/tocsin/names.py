"""Names that callers choose, kept in bounded memory: sessions, and ids of requests."""

from __future__ import annotations

import hashlib

MAX_LENGTH = 64  # characters of a name that is kept as it is


def bounded(name: str) -> str:
    """The name itself, or where it is long, a digest that no two names share."""
    if len(name) <= MAX_LENGTH:
        return name
    return "digest:" + hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
