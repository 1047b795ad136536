"""Requests that are sent once more, each on a connection of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tocsin.judgement.actions import Ask
from tocsin.outbound_http import Answer, HttpCall, HttpTarget, send_aio
from tocsin.relay.listening import Port


class SendingAgain:
    """The requests of one connection that are sent once more, to the upstream of its listener or to a fallback."""

    def __init__(self, port: Port) -> None:
        self._port = port
        self._tasks: set[asyncio.Task[None]] = set()

    def ask(self, step: Ask, request: HttpCall, on_answer: Callable[[Answer | None], None]) -> Callable[[], object]:
        """Send a request, and tell what came of it; returns what gives up doing so."""
        listener = self._port.listener
        if step.upstream is not None:
            target = HttpTarget(step.upstream, step.tls)
        else:
            target = HttpTarget(listener.upstream, listener.upstream_tls)

        async def send() -> None:
            on_answer(await send_aio(target, request))

        task = asyncio.get_running_loop().create_task(send())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task.cancel

    def give_up(self) -> None:
        """Nobody waits for them any more."""
        for task in list(self._tasks):
            task.cancel()
