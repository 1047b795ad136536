"""Delivers events to one destination: from a spool, retried until they are accepted; or at once, to a file."""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections import Counter
from typing import Protocol

from tocsin.configuration.events import (
    LABELS,
    AlertmanagerTarget,
    EventsConfig,
    FileTarget,
    LogTarget,
    Target,
    WebhookTarget,
)
from tocsin.events.alarm import alarm_of
from tocsin.events.alertmanager import Alertmanager
from tocsin.events.json_lines import JsonLines
from tocsin.events.kafka import Kafka
from tocsin.events.log import LogLines
from tocsin.events.post import Rejected
from tocsin.events.spool import Spool
from tocsin.events.webhook import Webhook
from tocsin.log_throttle import LogThrottle, and_more
from tocsin.state.deduplicator import Claim, Deduplicator

log = logging.getLogger("tocsin")

MIN_BACKOFF, MAX_BACKOFF = 0.5, 60.0  # seconds before trying again
ADOPTION_INTERVAL = 30.0  # seconds between looks for what others have left
CLOSE_TIMEOUT = 2.0  # seconds that the end of the process leaves


class Destination(Protocol):
    """Where events are delivered."""

    def send(self, line: bytes) -> None:
        """Deliver one event, a line of JSON. Raises Rejected where it is refused for good, OSError to try again."""
        ...

    def close(self) -> None:
        """No more events come."""
        ...


class DeliveryQueue(Protocol):
    """The queue of one configured target."""

    label: str
    counts: Counter[str]

    def put(self, line: bytes) -> None:
        """Store an event. When this returns, the event is on disk, or counted as dropped."""
        ...

    @property
    def waiting(self) -> int:
        """Bytes that are not delivered yet."""
        ...

    def close(self) -> None:
        """No more events come."""
        ...


def delivery_queues(config: EventsConfig, once: Deduplicator | None = None) -> list[DeliveryQueue]:
    """A queue for every target. Those that send events over the network ask `once` about each event.

    Raises ConfigError, or OSError when a folder cannot be used.
    """
    result: list[DeliveryQueue] = []
    for number, target in enumerate(config.to):
        if isinstance(target, FileTarget):
            result.append(JsonLines(target.file))
        elif isinstance(target, LogTarget):
            result.append(LogLines(target))
        else:
            assert config.spool is not None
            label = LABELS[type(target)]
            spool = Spool(config.spool / f"{number}-{label}", int(config.spool_size))
            result.append(Delivery(label, _destination(target), spool, once))
    return result


def check_target(target: Target) -> None:
    """Check the secrets and settings of a target that sends events over the network. Raises ConfigError."""
    if not isinstance(target, FileTarget | LogTarget):
        _destination(target).close()


class Delivery:
    """A thread that delivers the events of a spool in order."""

    def __init__(self, label: str, destination: Destination, spool: Spool, once: Deduplicator | None = None) -> None:
        self.label = label
        self._once = once
        self.counts: Counter[str] = Counter()
        self._destination, self._spool = destination, spool
        self._arrived, self._ending = threading.Event(), threading.Event()
        self._throttle = LogThrottle()
        self._thread = threading.Thread(target=self._run, name=f"tocsin-{label}", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        return self._spool.waiting

    def put(self, line: bytes) -> None:
        try:
            why = "" if self._spool.put(line) else "the spool is full, for its receiver does not take them"
        except OSError as error:
            why = f"the spool cannot be written: {error}"
        if not why:
            self._arrived.set()
            return
        self.counts["dropped"] += 1
        if (suppressed := self._throttle.admit("dropped")) is not None:
            log.error("an event for %s is lost: %s%s", self.label, why, and_more(suppressed))

    def close(self) -> None:
        """Stop. The next process delivers what is left."""
        self._ending.set()
        self._arrived.set()
        self._thread.join(CLOSE_TIMEOUT)
        if not self._thread.is_alive():
            self._spool.close()
            self._destination.close()

    def _run(self) -> None:
        """Deliver events in their order, each until it is taken, and those of processes that have ended."""
        wait, ends = MIN_BACKOFF, 0.0
        while True:
            self._arrived.clear()
            try:
                line = self._spool.head()
                if self._ending.is_set():
                    ends = ends or time.monotonic() + CLOSE_TIMEOUT
                    if line is None or time.monotonic() > ends:
                        return
                if line is None:
                    if not self._arrived.wait(ADOPTION_INTERVAL):
                        self._spool.adopt()
                    continue
                if not self._deliver(line):
                    self._ending.wait(MIN_BACKOFF)
                    continue
            except Exception as error:
                if wait == MIN_BACKOFF:
                    log.warning("events wait for %s: %s: %s", self.label, type(error).__name__, error)
                self.counts["failed"] += 1
                if self._ending.wait(wait * random.uniform(0.5, 1)):
                    return
                wait = min(2 * wait, MAX_BACKOFF)
            else:
                wait = MIN_BACKOFF

    def _deliver(self, line: bytes) -> bool:
        """Deliver an event; False while another replica is about to. Raises the destination's errors."""
        if not _is_event(line):
            self._settled(line, "rejected")
            log.error(
                "a line of %s's spool is no event, and is left out: the disk was full, or it was changed", self.label
            )
            return True
        alarm, claim = self._claimed(line)
        if claim == "elsewhere":
            return False
        if claim == "told":
            self._settled(line, "repeated")
            return True
        try:
            self._destination.send(line)
        except Rejected as error:
            self._settled(line, "rejected")
            log.error("an event was refused and is lost: %s", error)
            return True
        if alarm is not None and self._once is not None:
            self._once.mark_delivered(alarm)
        self._settled(line, "delivered")
        return True

    def _claimed(self, line: bytes) -> tuple[str | None, Claim]:
        """The key under which replicas share an event, if there is one, and whether this replica delivers it."""
        alarm = None if self._once is None else alarm_of(line)
        if alarm is None or self._once is None:
            return None, "ours"
        alarm = f"{self.label}:{alarm}"
        return alarm, self._once.claim(alarm)

    def _settled(self, line: bytes, outcome: str) -> None:
        self._spool.done(line)
        self.counts[outcome] += 1


def _is_event(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _destination(target: Target) -> Destination:
    if isinstance(target, WebhookTarget):
        return Webhook(target)
    if isinstance(target, AlertmanagerTarget):
        return Alertmanager(target)
    assert not isinstance(target, FileTarget | LogTarget)
    return Kafka(target)
