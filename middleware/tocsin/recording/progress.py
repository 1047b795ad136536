"""Progress reports of a recording: how much is kept, and why nothing is."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence

from tocsin.judgement.call import Call
from tocsin.judgement.sink import Sink

log = logging.getLogger("tocsin")

FIRST_REPORTS = (5.0, 10.0, 15.0)  # seconds after the start, and after each report, until reports come every minute
REPORT_INTERVAL = 60.0
METHODS_SHOWN = 3  # methods that are named


class RecordingProgress(Sink):
    """A sink that counts what a recorder leaves out, and reports in the log.

    `methods` are those of the configured models; `rows` returns how many responses are kept so far.
    """

    def __init__(self, methods: Sequence[str], most_rows: int, rows: Callable[[], int]) -> None:
        self._methods = list(methods)
        self._most_rows = most_rows
        self._rows = rows
        self._left_out: Counter[tuple[str, str]] = Counter()  # by model and reason

    def unscored(self, call: Call) -> None:
        """A response was not kept."""
        if call.verdict is not None:
            self._left_out[call.verdict.model, call.verdict.unscored or ""] += 1

    @property
    def has_left_out(self) -> bool:
        """Whether responses came that could not be kept."""
        return bool(self._left_out)

    def report(self, calls: Sequence[int]) -> str:
        """The text of the report now. `calls`: how many were not guarded, and guarded."""
        unguarded, guarded = calls
        rows = self._rows()
        parts = [f"{rows:,} of {self._most_rows:,} responses recorded"]
        if self._left_out:
            reasons = ", ".join(f"{count:,} of {model}: {why}" for (model, why), count in self._left_out.most_common())
            parts.append(f"left out: {reasons}")
        if not rows and not self._left_out:
            if guarded:
                parts.append(f"{guarded:,} guarded calls have begun, and none has been answered successfully yet")
            else:
                more = ", ..." if len(self._methods) > METHODS_SHOWN else ""
                parts.append(f"no call of {', '.join(self._methods[:METHODS_SHOWN])}{more} has come yet")
                if unguarded:
                    parts.append(f"{unguarded:,} calls of other methods passed; no configured model has those methods")
        return "; ".join(parts)

    async def run(self, calls: Callable[[], Sequence[int]]) -> None:
        """Report until cancelled: soon, then every minute; as a warning where nothing is recorded."""
        waits = iter(FIRST_REPORTS)
        while True:
            await asyncio.sleep(next(waits, REPORT_INTERVAL))
            log.log(logging.INFO if self._rows() else logging.WARNING, "%s", self.report(calls()))
            if self._rows() >= self._most_rows:
                return
