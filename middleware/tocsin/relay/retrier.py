"""Asking again: the same request, once more to the same model, or to the fallback that is configured; and asking a
model to stop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tocsin.judgement.call import Call
from tocsin.judgement.enforcement import Ask, EnforcementSteps, Judge, Outcome
from tocsin.judgement.policy import failed_closed
from tocsin.outbound import AioChannels, Sending, Target, forward_fields

if TYPE_CHECKING:
    from tocsin.relay.holding import HeldStream
    from tocsin.relay.server import Relay

log = logging.getLogger("tocsin")

STOPPING = 5.0  # seconds that telling an upstream to stop may take

_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


class Retrier:
    """Sends requests again for streams whose response is not to go out. Lives in the relay's loop."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._channels = AioChannels(relay.memory)
        self._stopping: set[asyncio.Task[list[bytes] | None]] = set()

    def start(
        self, stream: HeldStream, call: Call, request: bytes, steps: EnforcementSteps, first: Ask | Judge
    ) -> asyncio.Task[None]:
        """Do these steps for a call with that request, and tell the stream what came of them."""
        return asyncio.get_running_loop().create_task(self._run(stream, call, request, steps, first))

    def stop(self, stream: HeldStream, request: bytes) -> None:
        """Tell the upstream that the answer to this request is not wanted any more, where its protocol has a call."""
        abort = stream.guarded.reads.stop(request)
        if abort is not None:
            sending = Sending(*abort, (), STOPPING, streams=False, limit=self._relay.max_message)
            task = asyncio.get_running_loop().create_task(self._channels.send(Target(*stream.upstream), sending))
            self._stopping.add(task)
            task.add_done_callback(self._stopping.discard)

    async def close(self) -> None:
        """Close the connections."""
        await self._channels.close()

    async def _run(
        self, stream: HeldStream, call: Call, request: bytes, steps: EnforcementSteps, step: Ask | Judge
    ) -> None:
        try:
            while True:
                step = steps.send(await self._do(stream, call, request, step))
        except StopIteration as done:
            stream.acted(done.value, call)
        except Exception as error:
            log.error("model %s: asking again failed: %s: %s", call.model, type(error).__name__, error)
            stream.acted(failed_closed(call.verdict), call)

    async def _do(self, stream: HeldStream, call: Call, request: bytes, step: Ask | Judge) -> Outcome:
        if isinstance(step, Judge):
            await self._relay.batcher.judged(step.call)
            return None
        target = Target(step.upstream, step.tls) if step.upstream is not None else Target(*stream.upstream)
        seconds = min(step.seconds, _deadline(stream.fields, stream.opened) - time.monotonic())
        streams, limit = call.reads.streams, self._relay.max_message
        metadata = forward_fields(stream.fields)
        return await self._channels.send(target, Sending(call.method, request, metadata, seconds, streams, limit))


def _deadline(fields: Sequence[tuple[str, str]], opened: float) -> float:
    """When the deadline of a call that came at `opened` ends (time.monotonic); an hour later where there is none."""
    timeout = next((value for name, value in fields if name == "grpc-timeout"), "")
    if len(timeout) < 2 or timeout[-1] not in _UNITS or not timeout[:-1].isdigit():
        return opened + 3600.0
    return opened + int(timeout[:-1]) * _UNITS[timeout[-1]]
