"""What a relay will cost: CPU a response as a function of its size, rows and messages, and of the detectors' own time.

    us = call + kilobyte * KB + row * (rows - 1)
         + stream + message * (messages - 1), if it is a stream of messages
         + alone, if one call is made at a time
         + the detectors' own time for the rows, where they are scored

The coefficients are fitted by `python -m benchmarks.dataplane --only costs`, which prints how far they are off. They
hold for the machine where they were fitted; for another they are multiplied by how much longer the same work takes
there.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

from google.protobuf.struct_pb2 import Struct

from tocsin_detectors import Scorer


class Coefficients(NamedTuple):
    """Microseconds of CPU of a relay without TLS: for a response of one message and one row of no size, for each
    further 1,000 bytes and row, for being a stream and each further message of it, and for being the only call at its
    time.
    """

    call: float
    kilobyte: float
    row: float
    stream: float
    message: float
    alone: float

    def us(self, kind: ResponseKind, scoring_us: float = 0.0) -> float:
        """CPU of one response; `scoring_us` is the detectors' own time for all of its rows."""
        further = self.row * (kind.rows - 1) + self.message * (kind.messages - 1)
        further += self.stream if kind.messages > 1 else 0.0
        alone = self.alone if kind.one_at_a_time else 0.0
        return self.call + self.kilobyte * kind.kilobytes + further + alone + scoring_us


class ResponseKind(NamedTuple):
    """Responses of a kind: the size of one in units of 1,000 bytes, its rows or the messages of its stream, and whether
    the next call is made only when it is over.
    """

    kilobytes: float
    rows: int = 1
    messages: int = 1
    one_at_a_time: bool = False


UNSCORED = "unscored"  # what stands for the mode where a model has no bundle
MODES = ("observe", "annotate", "enforce")
CALLS, MESSAGES = 2, 32  # calls, or messages of a stream, that are scored in one run of the graph when many come
# By mode, and by whether the relay is compiled.
FITTED = {
    (UNSCORED, False): Coefficients(23.1, 0.75, 0.12, 4.0, 1.5, 59.7),
    ("observe", False): Coefficients(18.3, 1.14, 1.43, 362.1, 0.46, 286.3),
    ("annotate", False): Coefficients(44.4, 1.17, 3.81, 288.4, 2.76, 245.9),
    ("enforce", False): Coefficients(62.8, 2.27, 5.57, 0.0, 33.6, 274.8),
    (UNSCORED, True): Coefficients(18.6, 0.42, 0.02, 0.0, 0.89, 34.3),
    ("observe", True): Coefficients(22.0, 1.59, 0.73, 150.8, 1.97, 107.4),
    ("annotate", True): Coefficients(37.3, 1.24, 2.57, 189.6, 1.55, 105.0),
    ("enforce", True): Coefficients(40.3, 1.17, 3.95, 0.0, 23.2, 148.3),
}
REFERENCE_US = 22.0  # `reference_us` where they were fitted
_TURNS = 200


def scored_us(scorer: Scorer, kind: ResponseKind) -> float:
    """The detectors' own time on this machine for all rows of one response."""
    if kind.messages > 1:
        batch = min(MESSAGES, kind.messages)
    else:
        batch = kind.rows if kind.one_at_a_time else CALLS * kind.rows
    return 1e6 * scorer.cost(batch) * kind.rows * kind.messages


def machine_factor() -> float:
    """How many times longer than where the coefficients were fitted this machine takes."""
    return reference_us() / REFERENCE_US


def reference_us() -> float:
    """Microseconds of CPU of a fixed piece of work of the relay's kind: Python, and a message of Protocol Buffers read
    and written. The least of several, since whatever else runs only adds.
    """
    message = Struct()
    message.update({"model": "m", "outputs": [{"name": str(number), "shape": [1, number]} for number in range(8)]})
    content = message.SerializeToString()

    def work() -> int:
        read = Struct.FromString(content)
        names = {output.struct_value["name"]: at for at, output in enumerate(read["outputs"].values)}
        return len(read.SerializeToString()) + len(names)

    return min(statistics.median(_timed(work) for _ in range(5)) for _ in range(5))


def _timed(work: Callable[[], int]) -> float:
    before = time.process_time_ns()
    for _ in range(_TURNS):
        work()
    return (time.process_time_ns() - before) / _TURNS / 1e3
