"""What of a response may go out: its items in their order, and its end once everything before it has gone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from tocsin.judgement.actions import END, NOTHING, Actions, Judge, Release
from tocsin.judgement.call import Call
from tocsin.judgement.held_items import HeldItems

HOLDING: Final = 0  # responses wait for verdicts
ACTING: Final = 1  # somebody is asked about one of them: what is judged meanwhile waits
PASSING: Final = 2  # nothing more is judged
DONE: Final = 3  # everything has gone out, or something in its place


class OutgoingResponse:
    """One call's response on its way out, and what of it waits. `holds`: items wait until they are judged; else they
    go on at once, and only the end waits.
    """

    __slots__ = ("_deferred", "_items", "call", "came", "has_ended", "holds", "partially_sent", "state", "waiting")

    def __init__(self, call: Call, *, holds: bool) -> None:
        self.call = call
        self.holds = holds
        self.state: int = HOLDING
        self.waiting = 0  # judgements that are not there yet
        self.came = 0  # messages so far
        self.has_ended = False  # the response is complete, as far as it goes
        self.partially_sent = False
        self._items = HeldItems()
        self._deferred: list[tuple[Call, bytes | None]] | None = None  # judged while somebody is asked, with responses

    @property
    def is_holding(self) -> bool:
        """Whether something still waits here that may go out."""
        return self.state != DONE and (self.waiting > 0 or self.has_ended or self.state == ACTING)

    @property
    def awaits_verdict(self) -> bool:
        """Whether something that has come is being judged, or somebody is asked about it."""
        return self.waiting > 0 or self.state == ACTING

    @property
    def expects_more(self) -> bool:
        """Whether another message would be part of the response."""
        return self.call.streams or not self.came

    def pass_the_rest(self) -> Actions:
        """Nothing more of this call is judged: what is held and all that comes pass as they are."""
        self.state = PASSING
        self.waiting = 0
        items = self._items.take_all()
        if items:
            self.partially_sent = True
        if self.call.streams:
            self.call.forget()
        return [Release(items), *self._ending()] if items else self._ending()

    def close(self) -> None:
        """Nobody waits any more."""
        self.state = DONE
        self.waiting = 0
        self._items.clear()
        self._deferred = None

    def _keep(self, item: Any) -> Actions:
        """Until it is judged; where nothing is done about verdicts, it goes on at once."""
        self.came += 1
        if self.holds and self.state != PASSING:
            self._items.append(item)
            return NOTHING
        self.partially_sent = True
        return (Release((item,)),)

    def _submit(self, pieces: Sequence[Call]) -> Actions:
        """Have these pieces judged."""
        self.waiting += len(pieces)
        return [Judge(piece) for piece in pieces]

    def _release(self, places: Sequence[int]) -> Actions:
        """What may go and has nothing before it that may not, and the end where that is all."""
        ready = self._items.release(places)
        if not ready:
            return self._ending() if self.has_ended else NOTHING
        self.partially_sent = True
        if self.has_ended and not self.waiting and not self._deferred:
            self.state = DONE
            return Release(ready), END
        return (Release(ready),)

    def _ending(self) -> Actions:
        """The end of the response, once everything before it has gone out."""
        if not self.has_ended or self.waiting or self._deferred or self.state in (ACTING, DONE):
            return NOTHING
        self.state = DONE
        return (END,)
