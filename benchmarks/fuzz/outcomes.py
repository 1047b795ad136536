"""How a case may end, and what it may cost."""

from __future__ import annotations

import resource


class Failure(Exception):
    """A case that did what it must not."""


class Refused(Exception):
    """A case was refused in the way that is documented."""


def peak() -> int:
    """The most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
