"""Counts that replicas add up in Redis, so that evidence is that of them all.

Every few seconds each replica reports what it has counted since its last report, and gets everybody's sum; what others
have counted is the sum without its own. A report has a number and is taken in once, however often it is sent: one whose
answer was lost is sent again as it was. When Redis has lost its memory the sum begins anew, in a new epoch, on top of
what is known; nothing is taken back. While Redis is away, replicas go on with what they know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any
from uuid import uuid4

from tocsin.state.redis_connection import Asked, Away, RedisConnection
from tocsin.state.scripts import COUNT

KEPT = 7 * 24 * 3600 * 1000  # ms after the last report that counts are kept
AT_ONCE = 200  # reports of one round trip

Counts = list[int]


class _Shared:
    """One list of counts: what others are known to have counted, and what was reported, ever and in this epoch."""

    def __init__(self, length: int) -> None:
        self.replica = uuid4().hex[:12]
        self.number = 0
        self.under_way: Counts | None = None  # a report whose answer has not come
        self.ever = self.reported = [0] * length
        self.others = self.before = [0] * length  # now, and in earlier epochs
        self.epoch = ""


class SharedCounts:
    """Lists of counts by name, under `prefix`. For one thread."""

    def __init__(self, connection: RedisConnection, prefix: str) -> None:
        self._connection, self._prefix = connection, prefix
        self._shared: dict[str, _Shared] = {}

    def exchange(self, seen: Mapping[str, Sequence[int]]) -> dict[str, Counts]:
        """Report `seen`, this replica's own counts and those of others that were given to it; what others have counted
        since, where they have. Lists of another length under the same name are others.
        """
        names = {f"{name}/{len(counts)}": name for name, counts in seen.items()}
        self._shared = {key: one for key, one in self._shared.items() if key in names}
        found: dict[str, Counts] = {}
        waiting = iter(names.items())
        while some := dict(islice(waiting, AT_ONCE)):
            asked = [self._report(key, seen[name]) for key, name in some.items()]
            try:
                answers = self._connection.run_and_read(asked, _told)
            except Away:
                break
            for (key, name), answer in zip(some.items(), answers, strict=True):
                if any(more := self._answered(key, answer)):
                    found[name] = more
        return found

    def _report(self, key: str, seen: Sequence[int]) -> Asked:
        one = self._shared.get(key)
        if one is None or any(count < told for count, told in zip(seen, _plus(one.others, one.ever), strict=True)):
            one = self._shared[key] = _Shared(len(seen))  # it counts anew: what it had counted is others' now
        if one.under_way is None:
            one.number += 1
            known = _plus(one.others, one.ever)
            one.under_way = [count - told for count, told in zip(seen, known, strict=True)]
        more = [word for at, count in enumerate(one.under_way) if count for word in (at, count)]
        words: list[str | int] = [one.replica, one.number, KEPT, uuid4().hex[:12], *more]
        return Asked(COUNT, f"{self._prefix}:{{{key}}}:counts", words)

    def _answered(self, key: str, told: Mapping[str, str]) -> Counts:
        """What others have counted since the last answer."""
        one = self._shared[key]
        assert one.under_way is not None
        if told["epoch"] != one.epoch:
            one.epoch, one.before, one.reported = told["epoch"], one.others, [0] * len(one.others)
        one.reported = _plus(one.reported, one.under_way)
        one.ever = _plus(one.ever, one.under_way)
        one.under_way = None
        theirs = [int(told.get(str(at), 0)) - own for at, own in enumerate(one.reported)]
        now = _plus(one.before, theirs)
        more = [max(0, new - had) for new, had in zip(now, one.others, strict=True)]
        one.others = _plus(one.others, more)
        return more


def _told(answers: list[Any]) -> list[dict[str, str]]:
    """The fields of each answer. Raises ValueError, KeyError or TypeError where they are no counts."""
    found = []
    for answer in answers:
        told = answer if isinstance(answer, dict) else dict(zip(answer[::2], answer[1::2], strict=True))
        for name, value in told.items():
            if name != "epoch":
                int(value)
        if not isinstance(told["epoch"], str):
            raise TypeError("an epoch is a text")
        found.append(told)
    return found


def _plus(one: Sequence[int], other: Sequence[int]) -> Counts:
    return [a + b for a, b in zip(one, other, strict=True)]
