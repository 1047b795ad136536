"""Which calls are asked about: a share of them, drawn at random as they begin, by their trace where they have one.

Only of these the position passes the request, and keeps it until the call is judged.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Final

from tocsin.judgement.call import Call

SCALE: Final = 1 << 64


class Sampler:
    """Draws calls for a model with probability `share`. Calls of one trace are drawn together: by a keyed hash of the
    model's name and the trace, so that replicas with the same key agree and a caller without it cannot tell. Calls
    without a trace are drawn one by one.
    """

    def __init__(self, model: str, share: float, key: bytes) -> None:
        self.model = model
        self._share = share
        self._below = round(share * SCALE)
        self._hash = blake2b(model.encode() + b"\0", digest_size=8, key=key)

    def draws(self, trace: str) -> bool:
        """Whether a call with that trace id, "" for none, is drawn."""
        if not trace:
            return random.random() < self._share
        of_trace = self._hash.copy()
        of_trace.update(trace.encode())
        return int.from_bytes(of_trace.digest(), "big") < self._below


class Lottery:
    """The samplers of every method, which a sink sets that asks about calls."""

    def __init__(self) -> None:
        self.samplers: Mapping[str, Sequence[Sampler]] = {}

    def draw(self, call: Call) -> None:
        """Draw a call that begins for each model that may ask about it."""
        for sampler in self.samplers.get(call.method, ()):
            if sampler.draws(call.trace):
                call.drawn_for = [*call.drawn_for, sampler.model]
                call.wants_request = True
