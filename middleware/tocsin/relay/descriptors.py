"""File descriptors: how many connections they allow, and what happens when they run out."""

from __future__ import annotations

import errno
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path

if sys.platform != "win32":
    import resource

log = logging.getLogger("tocsin")

PER_CONNECTION = 2  # descriptors of a relayed connection: the caller's and the upstream's
RESERVED = 16  # for metrics, health, events, reloading and what else needs one now and then
UNREADY_SECONDS = 5.0  # seconds for which running out makes the process unready
UNLIMITED = 1 << 30
LOG_INTERVAL = 60.0  # seconds between lines in the log


class Descriptors:
    """How many connections the process has file descriptors for. `now`: seconds of a clock that does not jump."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._ran_out: float | None = None
        self._logged: float | None = None
        self.limit = 0
        self.most_connections = 1
        self.measure()

    def measure(self) -> None:
        """Take note of the limit, and of what is open now besides connections."""
        self.limit = _limit()
        self.most_connections = max(1, (self.limit - open_descriptors() - RESERVED) // PER_CONNECTION)

    @property
    def scarce(self) -> bool:
        """Whether they have run out lately."""
        return self._ran_out is not None and self._now() - self._ran_out < UNREADY_SECONDS

    def run_out(self) -> None:
        """There are none for another connection: say so, at most once a minute."""
        now = self._now()
        self._ran_out = now
        if self._logged is None or now - self._logged >= LOG_INTERVAL:
            self._logged = now
            log.error(
                "out of file descriptors: this process may have %d open, enough for %d connections; raise the limit "
                "(ulimit -n, LimitNOFILE) or lower limits.connections",
                self.limit,
                self.most_connections,
            )

    def explain(self, error: OSError) -> str:
        """What an error is of a connection that could not be made, where descriptors are to blame; else nothing."""
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            return ""
        self.run_out()
        return "the relay is out of file descriptors"


def open_descriptors() -> int:
    """How many the process has open now; a guess where the system does not say."""
    try:
        return sum(1 for _ in Path("/dev/fd").iterdir())
    except OSError:
        return 32


def raise_limit() -> None:
    """Allow this process as many descriptors as it may allow itself."""
    if sys.platform == "win32":
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # some systems cap it lower than they say
            log.debug("the limit of file descriptors stays at %d", soft)


def _limit() -> int:
    if sys.platform == "win32":
        return UNLIMITED
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return UNLIMITED if soft == resource.RLIM_INFINITY else soft
