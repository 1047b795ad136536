"""The likeliest tokens of each position of an answer, where a server lists them without the sampled token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from google.protobuf.descriptor import Descriptor

from tocsin.protocols.field_paths import resolve
from tocsin.protocols.field_values import Array
from tocsin.protocols.paths import SignalPath
from tocsin.unscored import Unscored


class MessagePart(Protocol):
    """One message of several that are judged together, and the sequence that it belongs to."""

    @property
    def message(self) -> Any: ...

    @property
    def sequence(self) -> int: ...


Read = Callable[
    [Sequence[MessagePart], int], Array | None
]  # messages, and the width that detectors were fitted on, 0 if free


class _Place(NamedTuple):
    """One position of an answer: the likeliest tokens except the sampled one, their log-probabilities, and the sampled
    one.
    """

    others: list[float]
    said: float
    rank: int
    logs: list[float]
    said_log: float

    @property
    def holds_said(self) -> bool:
        """Whether the sampled token is certainly among the likeliest."""
        return self.rank <= max(1, len(self.others)) or (bool(self.logs) and self.said_log >= min(self.logs))

    @property
    def amount(self) -> int:
        """How many of the likeliest are known. The sampled token completes them where it has the next rank."""
        return len(self.others) + (self.holds_said or self.rank <= len(self.others) + 1)

    def likeliest(self, amount: int) -> list[float]:
        """That many of the likeliest tokens, or fewer where fewer are listed."""
        pairs = list(zip(self.logs, self.others, strict=True))
        if len(pairs) < max(amount, self.amount):
            pairs.append((self.said_log, self.said))
        return [value for _, value in sorted(pairs, key=lambda pair: -pair[0])][:amount]


def likeliest(root: Descriptor, path: SignalPath, logprobs: SignalPath) -> Read:
    """How to read, of messages together, what is told of the K likeliest tokens of each place, (T, K), likeliest first.

    `path` tells it of all but the token that was said, `path.said` of that, and `path.ranks` its rank among all tokens,
    from 1, those that are as likely counted before it; `logprobs` tells the log-probabilities likewise. A server that
    is asked for K lists K - 1 others where the token said is one of them, and K where it is not: K is what the places
    say where that is sure. Raises ValueError where a path does not fit the messages.
    """
    named = (path.path, path.said, path.ranks, logprobs.path, logprobs.said)
    ways = [resolve(root, place) for place in named]
    for place, resolved in zip(named, ways, strict=True):
        if not resolved.numeric:
            raise ValueError(f"'{place}' holds no numbers")
    follow = [resolved.follow for resolved in ways]

    def read(parts: Sequence[MessagePart], width: int) -> Array | None:
        del width
        places: list[_Place] = []
        for part in parts:
            fields = [list(way(part.message) or ()) for way in follow]
            if len({len(values) for values in fields}) > 1:
                if not fields[1] or not fields[3]:
                    return None  # such as token ids that nobody asked for
                raise Unscored(
                    "shape", f"likeliest tokens are told of {len(fields[0])} places, of {len(fields[1])} said"
                )
            for others, said, rank, logs, said_log in zip(*fields, strict=True):
                if len(others) != len(logs):
                    raise Unscored("shape", f"{len(others)} tokens of a place have {len(logs)} log-probabilities")
                places.append(_Place(list(others), said, rank, list(logs), said_log))
        if not any(place.others for place in places) and any(place.rank > 1 for place in places):
            return None  # nobody asked for any
        sure = [len(place.others) + 1 for place in places if place.holds_said]
        amount = min(sure or [place.amount for place in places], default=0)
        if not amount:
            return None
        values = [place.likeliest(amount) for place in places]
        if any(len(of_place) < amount for of_place in values):
            raise Unscored("shape", f"some places have fewer than {amount} likeliest tokens")
        return Array.of(np.array(values, np.float32), False)

    return read
