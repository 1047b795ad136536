"""Labels on their way to the replica that judged the response, through Redis.

An identifier begins with the name of its judge. A label that reaches another replica is left in Redis, and its judge
fetches such labels every second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from tocsin.state.redis_connection import RedisConnection, RedisUnavailable, ScriptCall
from tocsin.state.scripts import FETCH, LEAVE

RETENTION = 24 * 3600 * 1000  # ms that a label waits: whoever judged may have ended
MAX_WAITING_LABELS = 100_000  # labels that wait for one judge
LABELS_PER_ROUND_TRIP = 1_000

Label = tuple[str, bool]  # identifier, safe
Learn = Callable[[str, bool], object]


class RedisLabels:
    """Labels by the judge that they are for."""

    def __init__(self, connection: RedisConnection, prefix: str) -> None:
        self._connection, self._prefix = connection, prefix

    def leave(self, labels: Iterable[Label]) -> bool:
        """Leave labels for other judges; whether Redis has stored them."""
        by_judge: dict[str, list[str | int]] = {}
        for identifier, safe in labels:
            judge = identifier.partition("-")[0]
            by_judge.setdefault(judge, []).append(f"{int(safe)}{identifier}")
        calls = [
            ScriptCall(LEAVE, self._key(judge), [RETENTION, MAX_WAITING_LABELS, *words])
            for judge, words in by_judge.items()
        ]
        try:
            self._connection.run(calls)
        except RedisUnavailable:
            return False
        return True

    def fetch(self, judges: dict[str, Learn]) -> None:
        """Pass to every judge the labels that were left for it."""
        if not judges:
            return
        calls = [ScriptCall(FETCH, self._key(judge), [LABELS_PER_ROUND_TRIP]) for judge in judges]
        try:
            batches = self._connection.run_and_read(calls, _labels)
        except RedisUnavailable:
            return
        for learn, labels in zip(judges.values(), batches, strict=True):
            for identifier, safe in labels:
                learn(identifier, safe)

    def _key(self, judge: str) -> str:
        return f"{self._prefix}:labels:{judge}"


def _labels(answers: list[Any]) -> list[list[Label]]:
    """The labels of each judge, as `leave` wrote them. Raises ValueError on anything else."""
    result = []
    for answer in answers:
        if not isinstance(answer, list) or not all(isinstance(word, str) and word[:1] in ("0", "1") for word in answer):
            raise ValueError("what is kept as labels is something else")
        result.append([(word[1:], word[0] == "1") for word in answer])
    return result
