"""How a case may end, and what it may cost."""

from __future__ import annotations

import resource


class Failure(Exception):
    """A case that violated a property."""


class Refused(Exception):
    """A case was refused in the way that is documented."""


def peak() -> int:
    """The peak resident memory of this process (bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
