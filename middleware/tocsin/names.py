"""Names that callers choose (sessions, request ids), kept in bounded memory."""

from __future__ import annotations

import hashlib

MAX_LENGTH = 64  # characters of a name that is kept as it is


def bounded(name: str) -> str:
    """The name itself, or for a long one a digest that no other name has."""
    if len(name) <= MAX_LENGTH:
        return name
    return "digest:" + hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
