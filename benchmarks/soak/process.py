"""A process of the run, which can be broken, and is watched."""

from __future__ import annotations

import math
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.stats

BLOCKS = 12  # of samples, whose medians are fitted


class Sample(NamedTuple):
    """What a process held: seconds on the monotonic clock, megabytes, file descriptors."""

    at: float
    megabytes: float
    descriptors: int


class Part:
    """A process that can be killed and started again."""

    def __init__(self, name: str, command: list[str], folder: Path) -> None:
        self.name = name
        self._command = command
        self._log = (folder / f"{name}.log").open("ab")
        self.process = self._start()
        self.samples: list[Sample] = []  # since it was last started

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, stdout=self._log, stderr=self._log)

    def again(self) -> None:
        """Start it anew; what it held before is forgotten."""
        self.samples.clear()
        self.process = self._start()

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def sample(self) -> None:
        """Take note of what it holds, if it runs."""
        if self.process.poll() is None:
            self.samples.append(Sample(time.monotonic(), self._resident(), self._descriptors()))

    def end(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait()

    def slope(self) -> tuple[float, float]:
        """Megabytes an hour over the later half of the time since it was last started, and how far noise may take that
        with probability 1%; infinitely many where there is too little to tell.
        """
        later = np.array([sample[:2] for sample in self.samples[len(self.samples) // 2 :]])
        if len(later) < 2 * BLOCKS:
            return math.inf, 0.0
        times, sizes = np.array([np.median(block, axis=0) for block in np.array_split(later, BLOCKS)]).T
        fitted = scipy.stats.linregress(times / 3_600, sizes)
        return float(fitted.slope), float(scipy.stats.t.ppf(0.99, BLOCKS - 2) * fitted.stderr)

    def _resident(self) -> float:
        """Megabytes that it has to itself."""
        for line in Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Private_Dirty:"):
                return int(line.split()[1]) / 1024
        return 0.0

    def _descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))
