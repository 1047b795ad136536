"""The messages of a stream that wait to be judged together."""

from __future__ import annotations

from typing import NamedTuple


class MessageGroup(NamedTuple):
    """Messages that are judged together, each with its position in the response, and the request that they answer.
    `is_unmatched`: of several requests, it is not known which one.
    """

    request: bytes | None
    is_unmatched: bool
    messages: list[tuple[int, bytes]]


class MessageGroups:
    """Collects messages until `every` of one sequence and request are there; all of them where that is 0.

    `kept_bytes` is what waits: the messages, and where `counts_requests` the request of each group.
    """

    def __init__(self, every: int, *, counts_requests: bool) -> None:
        self.kept_bytes = 0
        self._every = every
        self._counts_requests = counts_requests
        self._waiting: dict[tuple[int, int], MessageGroup] = {}  # by sequence and request

    def add(
        self, place: int, content: bytes, sequence: int, request: bytes | None, is_unmatched: bool
    ) -> MessageGroup | None:
        """Take a message; returns the group that it completes."""
        request_size = len(request) if self._counts_requests and request is not None else 0
        key = sequence, id(request) if self._counts_requests and request is not None else 0
        group = self._waiting.get(key)
        if group is None:
            group = self._waiting[key] = MessageGroup(request, is_unmatched, [])
            self.kept_bytes += request_size
        messages = group.messages
        messages.append((place, content))
        if not self._every or len(messages) < self._every:
            self.kept_bytes += len(content)
            return None
        self.kept_bytes -= request_size + sum([len(earlier) for _, earlier in messages[:-1]])
        del self._waiting[key]
        return group

    def take_all(self) -> list[MessageGroup]:
        """Every group as far as it has come: nothing waits any more."""
        groups, self._waiting, self.kept_bytes = list(self._waiting.values()), {}, 0
        return groups
