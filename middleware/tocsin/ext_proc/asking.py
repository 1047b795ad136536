"""Asking again for an exchange whose response is not to go out: the same request, to the model or to its fallback."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from tocsin.ext_proc.context import Retried
from tocsin.judgement.call import Call
from tocsin.judgement.enforcement import Ask, EnforcementSteps, Judge, Outcome
from tocsin.judgement.policy import failed_closed
from tocsin.outbound import AioChannels, Sending, Target, forward_fields

if TYPE_CHECKING:
    from tocsin.ext_proc.connection import ExtProcConnection
    from tocsin.ext_proc.server import ExtProcServer

log = logging.getLogger("tocsin")

ENVOYS = ("x-envoy-", "x-request-id", "x-forwarded-")  # fields that Envoy wrote of its own exchange


class AskingAgain:
    """Sends requests again. Lives in the server's loop."""

    def __init__(self, server: ExtProcServer) -> None:
        self._server = server
        self._channels = AioChannels(server.memory)
        self._tasks: set[asyncio.Task[None]] = set()

    def start(
        self,
        steps: EnforcementSteps,
        first: Ask | Judge,
        call: Call,
        response: Retried,
        connection: ExtProcConnection,
    ) -> Callable[[], object]:
        """Do these steps, and tell the response what came of them; what gives up doing so."""
        request = call.request or b""  # what is judged is forgotten at the end of this turn
        task = self._server.loop.create_task(self._run(steps, first, call, request, response, connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task.cancel

    async def close(self) -> None:
        """Close the connections."""
        for task in list(self._tasks):
            task.cancel()
        await self._channels.close()

    async def _run(
        self,
        steps: EnforcementSteps,
        step: Ask | Judge,
        call: Call,
        request: bytes,
        response: Retried,
        connection: ExtProcConnection,
    ) -> None:
        try:
            while True:
                step = steps.send(await self._do(step, call, request, response))
        except StopIteration as done:
            response.acted(done.value, call)
        except Exception as error:
            log.error("model %s: asking again failed: %s: %s", call.model, type(error).__name__, error)
            response.acted(failed_closed(call.verdict), call)
        connection.flush()

    async def _do(self, step: Ask | Judge, call: Call, request: bytes, response: Retried) -> Outcome:
        if isinstance(step, Judge):
            await self._server.batcher.judged(step.call)
            return None
        context = self._server.context
        if step.upstream is not None:
            target = Target(step.upstream, step.tls)
        elif "upstream" in context.config.model_fields_set:
            target = Target(context.config.upstream, context.config.upstream_tls)
        else:
            return None  # where Envoy sends requests is not known here
        fields = [field for field in response.request_fields if not field[0].startswith(ENVOYS)]
        seconds = min(step.seconds, _remaining(response))
        limit = context.max_message
        sending = Sending(call.method, request, forward_fields(fields), seconds, call.reads.streams, limit)
        return await self._channels.send(target, sending)


def _remaining(response: Retried) -> float:
    """Seconds until the caller's deadline; an hour where there is none."""
    units = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
    timeout = next((value for name, value in response.request_fields if name == "grpc-timeout"), "")
    if len(timeout) < 2 or timeout[-1] not in units or not timeout[:-1].isdigit():
        return 3600.0
    return response.opened + int(timeout[:-1]) * units[timeout[-1]] - time.monotonic()
