"""Processes of the run, which can be broken, and what they hold."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.stats
from numpy.typing import NDArray

BLOCK = 128  # bytes of a block of Python's own heap, more than most take
SWINGS = 36.0  # seconds for which resident memory may stay above or below what it is in the long run


class Part:
    """A process that can be killed and started again."""

    def __init__(self, name: str, command: list[str], folder: Path) -> None:
        self._command = [sys.executable, "-m", *command]
        self._log = (folder / f"{name}.log").open("ab")
        self.process = self._start()

    def again(self) -> None:
        """Start it anew."""
        self.process = self._start()

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def end(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log)


class Sample(NamedTuple):
    """What a relay holds: when (seconds on the monotonic clock), megabytes that are resident, that are in use, and that
    the C library keeps free, and file descriptors.
    """

    at: float
    resident: float
    used: float
    free: float
    descriptors: int


class RelayPart(Part):
    """A relay, and what it held whenever it was looked at since it was last started."""

    def __init__(self, name: str, config: Path, folder: Path) -> None:
        super().__init__(name, ["benchmarks.soak.relay", "serve", "-c", str(config)], folder)
        self.samples: list[Sample] = []

    def again(self) -> None:
        """Start the process again and clear its samples."""
        self.samples.clear()
        super().again()

    def sample(self) -> None:
        """Record the process's memory and descriptors, if it runs."""
        process = self.process
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(b"\n")
            process.stdin.flush()
            blocks, heap, free = json.loads(process.stdout.readline())
            folder = Path(f"/proc/{process.pid}")
            rollup = (folder / "smaps_rollup").read_text().splitlines()
            resident = next(int(line.split()[1]) for line in rollup if line.startswith("Private_Dirty:"))
            descriptors = len(list((folder / "fd").iterdir()))
        except (OSError, ValueError):  # it is being restarted
            return
        used = (blocks * BLOCK + heap) / (1 << 20)
        if process is self.process:
            self.samples.append(Sample(time.monotonic(), resident / 1024, used, free / (1 << 20), descriptors))

    def used_slope(self) -> tuple[float, float]:
        """Megabytes in use an hour, once warm, and how far noise may take that with probability 1%; infinitely many
        where there is too little to tell.
        """
        return _slope(np.array([(sample.at, sample.used) for sample in self._warm()]))

    def resident_slope(self) -> tuple[float, float]:
        """The same of resident memory, whose samples are not independent: the heap is returned to the system in steps,
        and keeps its size for a while. Medians over as long as that may last are fitted, however many samples a busy
        machine took in that time.
        """
        several = np.array([(sample.at, sample.resident) for sample in self._warm()])
        if not len(several):
            return _slope(several)
        since = several[:, 0] - several[0, 0]
        bounds = np.searchsorted(since, np.arange(SWINGS, since[-1], SWINGS))
        blocks = np.split(several, bounds)[: int(since[-1] / SWINGS)]  # whole ones
        return _slope(np.array([np.median(block, axis=0) for block in blocks if len(block)]))

    def free_slope(self) -> tuple[float, float]:
        """The same of what the C library keeps free: holes between what is in use, not yet returned to the system."""
        return _slope(np.array([(sample.at, sample.free) for sample in self._warm()]))

    def _warm(self) -> list[Sample]:
        return self.samples[len(self.samples) // 3 :]


def _slope(points: NDArray[np.float64]) -> tuple[float, float]:
    if len(points) < 4:
        return math.inf, 0.0
    times, sizes = points.T
    fitted = scipy.stats.linregress(times / 3_600, sizes)
    return float(fitted.slope), float(scipy.stats.t.ppf(0.99, len(points) - 2) * fitted.stderr)
