"""The requests of a stream that may still be answered, and which of them a response answers."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque

from tocsin.names import bounded
from tocsin.protocols.method import Method
from tocsin.unscored import Unscored

MOST_WAITING = 10_000  # requests without an answer that are kept, and ids whose requests cannot be told apart
BYTES_WAITING = 67_108_864  # of those requests
MOST_ANSWERED = 64  # requests with an answer that are kept, since further answers may come
BYTES_ANSWERED = 4_194_304  # of those
OVERHEAD = 256  # bytes that keeping a request, or an id, takes besides


class _Requests:
    """The requests of one id that wait for their answers; `forgotten` counts those dropped before them."""

    __slots__ = ("contents", "forgotten")

    def __init__(self, content: bytes) -> None:
        self.contents = deque((content,))
        self.forgotten = 0


class StreamRequests:
    """Matches the responses of one stream with its requests: by id, and with `in_turn` by the order of those with one
    id.

    Where several requests of one id wait and `in_turn` is not set, a response cannot be matched, and nothing of that id
    is matched from then on. When there are too many requests, or memory is short, the oldest are dropped. Of requests
    that have an answer the latest are kept, for further answers. `kept` is the bytes that all of them take. Safe
    between threads: in a program, different threads may handle requests and responses.
    """

    def __init__(self, method: Method, *, in_turn: bool) -> None:
        self._method = method
        self._in_turn = in_turn
        self._waiting: OrderedDict[str, _Requests] = OrderedDict()  # oldest first
        self._latest_answered: OrderedDict[str, bytes] = OrderedDict()  # latest answer last
        self._ambiguous: set[str] = set()
        self._is_lost = False  # nothing can be matched any more
        self._has_repeated = False  # some request had several answers
        self._count = self._waiting_count = self._answered_bytes = 0
        self._lock = threading.Lock()
        self.kept_bytes = 0

    def add(self, content: bytes) -> None:
        """A request was sent."""
        try:
            name = bounded(self._method.request_id(content))
        except Unscored:
            name = ""  # it is found out when the request is read
        with self._lock:
            self._count += 1
            if self._is_lost or name in self._ambiguous:
                return
            requests = self._waiting.get(name)
            if requests is not None and self._in_turn:
                requests.contents.append(content)
            elif requests is not None or (self._has_repeated and name in self._latest_answered):
                self._forget_id(name)
                return
            else:
                self._drop_answered(name)
                self._waiting[name] = _Requests(content)
            self.kept_bytes += len(content) + OVERHEAD
            self._waiting_count += 1
            while self._waiting_count > MOST_WAITING or self.kept_bytes > BYTES_WAITING + BYTES_ANSWERED:
                self._forget_waiting()

    def match(self, response: bytes) -> bytes | None:
        """The request that a response answers, None where that is not known."""
        try:
            name, is_final = self._method.answer_of(response)
        except Unscored:
            return None
        with self._lock:
            name = self._meant(bounded(name))
            requests = self._waiting.get(name)
            if requests is None:
                latest = self._latest_answered.get(name)
                self._has_repeated = self._has_repeated or (latest is not None and not is_final)
                if latest is not None and is_final:
                    self._drop_answered(name)
                elif latest is not None:
                    self._latest_answered.move_to_end(name)
                return latest
            if requests.forgotten:
                requests.forgotten -= 1
                self._drop_empty(name, requests)
                return None
            content = requests.contents.popleft()
            self._waiting_count -= 1
            self._drop_empty(name, requests)
            if self._in_turn or is_final:
                self.kept_bytes -= len(content) + OVERHEAD
            else:
                self._keep_answered(name, content)
            return content

    def forget_oldest(self) -> bool:
        """Drop the oldest request; its responses cannot be matched then. False where there is none."""
        with self._lock:
            if self._latest_answered:
                self._drop_answered(next(iter(self._latest_answered)))
                return True
            return self._forget_waiting()

    def forget(self) -> None:
        """No more responses come."""
        with self._lock:
            self._lose()

    def _meant(self, name: str) -> str:
        """The id of the request that a response with this id answers. A response without an id answers the only one."""
        if name or self._count != 1:
            return name
        return next(iter(self._waiting or self._latest_answered), name)

    def _keep_answered(self, name: str, content: bytes) -> None:
        self._latest_answered[name] = content
        self._answered_bytes += len(content)
        while len(self._latest_answered) > MOST_ANSWERED or (
            self._answered_bytes > BYTES_ANSWERED and len(self._latest_answered) > 1
        ):
            self._drop_answered(next(iter(self._latest_answered)))

    def _drop_answered(self, name: str) -> None:
        content = self._latest_answered.pop(name, None)
        if content is not None:
            self._answered_bytes -= len(content)
            self.kept_bytes -= len(content) + OVERHEAD

    def _drop_empty(self, name: str, requests: _Requests) -> None:
        if not requests.contents and not requests.forgotten:
            del self._waiting[name]

    def _forget_waiting(self) -> bool:
        """Drop the oldest request without an answer."""
        for _ in range(len(self._waiting)):
            name, requests = next(iter(self._waiting.items()))
            if not requests.contents:
                self._waiting.move_to_end(name)
                continue
            if not self._in_turn or len(self._waiting) > 2 * MOST_WAITING:
                self._forget_id(name)
                return True
            self.kept_bytes -= len(requests.contents.popleft()) + OVERHEAD
            self._waiting_count -= 1
            requests.forgotten += 1  # its turn comes all the same
            return True
        self._lose()
        return False

    def _forget_id(self, name: str) -> None:
        """Match no request of that id any more."""
        requests = self._waiting.pop(name, None)
        for content in requests.contents if requests is not None else ():
            self.kept_bytes -= len(content) + OVERHEAD
            self._waiting_count -= 1
        self._drop_answered(name)
        self._ambiguous.add(name)
        self.kept_bytes += OVERHEAD
        if len(self._ambiguous) > MOST_WAITING:
            self._lose()

    def _lose(self) -> None:
        self._waiting.clear()
        self._latest_answered.clear()
        self._ambiguous.clear()
        self._is_lost = True
        self.kept_bytes = self._waiting_count = self._answered_bytes = 0
