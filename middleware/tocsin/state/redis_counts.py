"""Counts that replicas add up in Redis, so that their evidence is computed from all of them.

Every few seconds each replica reports what it has counted since its last report, and receives the sum of all replicas;
the others' share is that sum without its own. A report has a number and is added once, however often it is sent: one
whose answer was lost is sent again unchanged. When Redis has lost its memory the sum starts anew, in a new epoch, on
top of what is known; nothing is subtracted. While Redis is unavailable, replicas continue with what they know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any
from uuid import uuid4

from tocsin.state.redis_connection import RedisConnection, RedisUnavailable, ScriptCall
from tocsin.state.scripts import COUNT

RETENTION = 7 * 24 * 3600 * 1000  # ms after the last report that counts are kept
REPORTS_PER_ROUND_TRIP = 200  # reports of one round trip

Counts = list[int]


class _Shared:
    """One list of counts: what others are known to have counted, and what was reported, in total and in this epoch."""

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

    @property
    def is_unanswered(self) -> bool:
        """Whether the answer to some report has been lost, so that the same is sent once more."""
        return any(entry.under_way is not None for entry in self._shared.values())

    def exchange(self, counts_by_name: Mapping[str, Sequence[int]]) -> dict[str, Counts]:
        """Report `seen`, this replica's own counts and those that it was given of others. Returns what others have
        counted since, where they have. Lists of another length under the same name are separate. Names that are no
        longer given are dropped, except `NAME:PART` while `NAME` is given: parts may be exchanged less often.
        """
        names = {f"{name}/{len(counts)}": name for name, counts in counts_by_name.items()}
        self._shared = {
            key: entry for key, entry in self._shared.items() if key in names or _whole_of(key) in counts_by_name
        }
        result: dict[str, Counts] = {}
        waiting = iter(names.items())
        while some := dict(islice(waiting, REPORTS_PER_ROUND_TRIP)):
            calls = [self._report(key, counts_by_name[name]) for key, name in some.items()]
            try:
                answers = self._connection.run_and_read(calls, _hashes)
            except RedisUnavailable:
                break
            for (key, name), answer in zip(some.items(), answers, strict=True):
                if any(more := self._on_reply(key, answer)):
                    result[name] = more
        return result

    def _report(self, key: str, counts: Sequence[int]) -> ScriptCall:
        """The script that adds what was counted here since the last report, and returns the sum of all replicas."""
        entry = self._shared.get(key)
        if entry is None or any(
            count < reported for count, reported in zip(counts, _added(entry.others, entry.ever), strict=True)
        ):
            entry = self._shared[key] = _Shared(len(counts))  # it counts anew: what it had counted is others' now
        if entry.under_way is None:
            entry.number += 1
            reported_total = _added(entry.others, entry.ever)
            entry.under_way = [count - reported for count, reported in zip(counts, reported_total, strict=True)]
        more = [word for at, count in enumerate(entry.under_way) if count for word in (at, count)]
        words: list[str | int] = [entry.replica, entry.number, RETENTION, uuid4().hex[:12], *more]
        return ScriptCall(COUNT, f"{self._prefix}:{{{key}}}:counts", words)

    def _on_reply(self, key: str, reply: Mapping[str, str]) -> Counts:
        """What others have counted since the last answer."""
        entry = self._shared[key]
        assert entry.under_way is not None
        if reply["epoch"] != entry.epoch:
            entry.epoch, entry.before, entry.reported = reply["epoch"], entry.others, [0] * len(entry.others)
        entry.reported = _added(entry.reported, entry.under_way)
        entry.ever = _added(entry.ever, entry.under_way)
        entry.under_way = None
        theirs = [int(reply.get(str(at), 0)) - reported for at, reported in enumerate(entry.reported)]
        now = _added(entry.before, theirs)
        more = [max(0, new - had) for new, had in zip(now, entry.others, strict=True)]
        entry.others = _added(entry.others, more)
        return more


def _whole_of(key: str) -> str:
    """The NAME of `NAME:PART/LENGTH`."""
    return key.rpartition("/")[0].rpartition(":")[0]


def _hashes(answers: list[Any]) -> list[dict[str, str]]:
    """The fields of each answer. Raises ValueError, KeyError or TypeError where they are no counts."""
    result = []
    for answer in answers:
        content = answer if isinstance(answer, dict) else dict(zip(answer[::2], answer[1::2], strict=True))
        for name, value in content.items():
            if name != "epoch":
                int(value)
        if not isinstance(content["epoch"], str):
            raise TypeError("an epoch is a text")
        result.append(content)
    return result


def _added(counts: Sequence[int], other: Sequence[int]) -> Counts:
    return [a + b for a, b in zip(counts, other, strict=True)]
