"""Going on with a gated response, the same for every position that sends one on."""

from __future__ import annotations

from asyncio import TimerHandle
from typing import Protocol

from tocsin.exchange.gated import GatedResponse
from tocsin.judgement.actions import Ask, Judge
from tocsin.judgement.call import Call
from tocsin.judgement.policy import Replacement


class ResponseSender(Protocol):
    """Sends a response on as its position does. `is_over`: nothing more is sent."""

    is_over: bool

    def submit(self, call: Call) -> None:
        """Have a call judged, and report its verdict."""
        ...

    def ask(self, step: Ask) -> None:
        """Send the request once more, and report the answer."""
        ...

    def limit(self) -> TimerHandle | None:
        """Start the scoring budget, which reports when it is spent; None where verdicts come at once."""
        ...

    def flush(self) -> None:
        """Send what is ready, where the position does not wait for more."""
        ...

    def finish(self) -> None:
        """Send what waits, and the end."""
        ...

    def replace(self, instead: Replacement) -> None:
        """Drop what is held, and send this in its place."""
        ...


def go_on(gated: GatedResponse, sender: ResponseSender) -> None:
    """Do what is to be done next, and send what may go on."""
    for step in gated.take_steps():
        if isinstance(step, Judge):
            sender.submit(step.call)
        else:
            sender.ask(step)
    if sender.is_over:
        return
    if gated.instead is not None:
        sender.replace(gated.instead)
    elif gated.is_finished:
        sender.finish()
    else:
        if gated.needs_deadline:
            gated.wait_until(sender.limit())
        if gated.has_ready:
            sender.flush()
