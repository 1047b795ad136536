"""Asking again: the same request, once more to the same model, or to the fallback that is configured; and asking a
model to stop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tocsin.configuration.fields import Address
from tocsin.configuration.listener import UpstreamTls
from tocsin.judgement.actions import Ask, Outcome
from tocsin.memory import MemoryBudget
from tocsin.outbound import AioChannels, Sending, Target, forward_fields, sending_of

log = logging.getLogger("tocsin")

STOP_TIMEOUT = 5.0  # seconds that telling an upstream to stop may take

_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


class CallRoute(NamedTuple):
    """How a call went: to which model server, with which headers, when (time.monotonic), and how large its answer may
    be.
    """

    upstream: Address
    tls: UpstreamTls | None
    fields: Sequence[tuple[str, str]]
    opened: float
    largest: int


class Retrier:
    """Sends requests again for calls whose response is not to go out. Lives in the relay's loop."""

    def __init__(self, memory: MemoryBudget) -> None:
        self._channels = AioChannels(memory)
        self._stopping: set[asyncio.Task[list[bytes] | None]] = set()

    def ask(self, step: Ask, route: CallRoute, on_answer: Callable[[Outcome], None]) -> asyncio.Task[None]:
        """Do this step of a call that went this way, and tell what came of it."""
        return asyncio.get_running_loop().create_task(self._ask(step, route, on_answer))

    def stop(self, abort: tuple[str, bytes], route: CallRoute) -> None:
        """Tell the upstream by this call that an answer is not wanted any more."""
        sending = Sending(*abort, (), STOP_TIMEOUT, streams=False, limit=route.largest)
        task = asyncio.get_running_loop().create_task(self._channels.send(Target(route.upstream, route.tls), sending))
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    async def close(self) -> None:
        """Close the connections."""
        await self._channels.close()

    async def _ask(self, step: Ask, route: CallRoute, on_answer: Callable[[Outcome], None]) -> None:
        if step.upstream is not None:
            target = Target(step.upstream, step.tls)
        else:
            target = Target(route.upstream, route.tls)
        seconds = min(step.seconds, _deadline(route.fields, route.opened) - time.monotonic())
        metadata = forward_fields(route.fields)
        sending = sending_of(step, metadata, seconds, route.largest)
        outcome: Outcome = None
        try:
            outcome = await self._channels.send(target, sending)
        except Exception as error:
            log.error("model %s: asking again failed: %s: %s", step.call.model, type(error).__name__, error)
        on_answer(outcome)


def _deadline(fields: Sequence[tuple[str, str]], opened: float) -> float:
    """When the deadline of a call that came at `opened` ends (time.monotonic); an hour later where there is none."""
    timeout = next((value for name, value in fields if name == "grpc-timeout"), "")
    if len(timeout) < 2 or timeout[-1] not in _UNITS or not timeout[:-1].isdigit():
        return opened + 3600.0
    return opened + int(timeout[:-1]) * _UNITS[timeout[-1]]
