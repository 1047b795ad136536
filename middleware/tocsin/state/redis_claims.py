"""Which alarms have been told, for replicas that share a Redis; while it is away each tells its own."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from tocsin.state.deduplicator import Claim
from tocsin.state.redis_connection import RedisConnection, RedisUnavailable, ScriptCall
from tocsin.state.scripts import CLAIM, MARK_DELIVERED

LEASE = 10_000  # ms that an alarm is left to who wants to tell it


class RedisClaims:
    """See `Deduplicator`. An event that one replica has sent is not sent by another for `repeat` seconds."""

    def __init__(self, connection: RedisConnection, prefix: str, repeat: float) -> None:
        self._connection, self._prefix, self._repeat = connection, prefix, max(1, round(1e3 * repeat))
        self._process = uuid4().hex[:12]

    def claim(self, alarm: str) -> Claim:
        try:
            return self._connection.run_and_read([self._script_call(CLAIM, alarm, LEASE)], _claim)
        except RedisUnavailable:
            return "ours"

    def mark_delivered(self, alarm: str) -> None:
        try:
            self._connection.run([self._script_call(MARK_DELIVERED, alarm, self._repeat)])
        except RedisUnavailable:
            return

    def _script_call(self, script: str, alarm: str, milliseconds: int) -> ScriptCall:
        return ScriptCall(script, f"{self._prefix}:told:{alarm}", [self._process, milliseconds])


def _claim(answers: list[Any]) -> Claim:
    claims: dict[str, Claim] = {"ours": "ours", "elsewhere": "elsewhere", "told": "told"}
    return claims[answers[0]]
