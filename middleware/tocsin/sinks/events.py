"""Alarms as events: which alarms become events, stored safely before their response goes out."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from prometheus_client.metrics_core import Metric

from tocsin.configuration.events import EventsConfig
from tocsin.events.alarm import (
    ALARM,
    EVIDENCE,
    SUM,
    Event,
    alarm,
    alarm_sum,
    event,
    evidence,
    line,
    subject,
    without_messages,
)
from tocsin.events.alarm_throttle import AlarmThrottle
from tocsin.events.delivery import DeliveryQueue, delivery_queues
from tocsin.events.health import Facts, facts, families
from tocsin.judgement.call import Call
from tocsin.judgement.levels import Identifiers
from tocsin.judgement.model import GuardedModel
from tocsin.judgement.sink import Scored, Sink
from tocsin.sinks.finding import Finding
from tocsin.state.deduplicator import Deduplicator

EVENTS_IN_MEMORY = 1_000  # events kept in memory without their messages, for those who look at them


class EventSink(Sink):
    """Makes events of alarms. Where `config` is None nothing is sent, and only the latest events are kept for display.
    `once` knows which events other replicas have sent. `finding` returns what evidence had found of a model when it was
    last computed; `findings` computes it anew.

    Raises ConfigError, or OSError when a folder cannot be used.
    """

    takes_runs = True

    def __init__(
        self,
        models: Mapping[str, GuardedModel],
        config: EventsConfig | None,
        once: Deduplicator | None = None,
        *,
        finding: Callable[[str], Finding | None] = lambda model: None,
        findings: Callable[[], Mapping[str, Finding]] = dict,
    ) -> None:
        self._models = dict(models)
        settings = config or EventsConfig.model_construct(to=[])
        self._outlets: Sequence[DeliveryQueue] = delivery_queues(config, once) if config is not None else []
        self._storms = AlarmThrottle(settings.window.total_seconds(), settings.burst, settings.repeat.total_seconds())
        self._payload = settings.payload
        self._finding, self._findings = finding, findings if settings.evidence else dict
        self._repeat = settings.repeat.total_seconds()
        self._reported: dict[str, tuple[object, float]] = {}  # by model, the last finding and when it was reported
        self._window = settings.window.total_seconds()
        self._lock = threading.Lock()
        self._identifiers = Identifiers()
        self._ending = threading.Event()
        self.latest: deque[Event] = deque(maxlen=EVENTS_IN_MEMORY)
        self._clock = threading.Thread(target=self._watch, name="tocsin-events", daemon=True)
        self._clock.start()

    def follow(self, models: Mapping[str, GuardedModel]) -> None:
        """Use these models from here on."""
        self._models = dict(models)

    def scored(self, batch: Scored) -> None:
        """Make events of the alarmed calls of a batch."""
        at = 0
        for call in batch.calls:
            verdict = call.verdict
            assert verdict is not None
            first, at = at, at + len(verdict.pvalues)
            if verdict.severity is not None:
                self._alarmed(batch, call, first)

    def _alarmed(self, batch: Scored, call: Call, first: int) -> None:
        """Send an alarm's event, or count it where its session or model has had many. `first` is the place of the
        call's first row in the batch.
        """
        verdict, model = call.verdict, self._models.get(batch.model)
        if model is None or model.scoring is None or verdict is None or verdict.severity is None:
            return
        session, scoring = model.session_of(call), model.scoring
        grade = list(scoring.promise.alphas).index(verdict.severity)

        def data() -> dict[str, Any]:
            worst = first + min(range(len(verdict.pvalues)), key=verdict.pvalues.__getitem__)
            scores = dict(zip(scoring.scorer.detectors, batch.scores[worst].tolist(), strict=True))
            finding = self._finding(batch.model)
            return alarm(call, session, scores, self._payload, None if finding is None else finding.brief())

        with self._lock:
            if self._storms.admits(batch.model, session, grade, time.monotonic()):
                identifier = self._identifiers.next()
                self._tell(event(ALARM, identifier, subject(batch.model, session), time.time(), data()))
                return
            detectors, details = verdict.worst
            chief = detectors[min(range(len(details)), key=details.__getitem__)]
            self._storms.add(batch.model, session, verdict.severity, min(verdict.pvalues), chief, data, call.version)

    def news(self) -> list[Event]:
        """The events since the last call of `news`."""
        return [self.latest.popleft() for _ in range(len(self.latest))]

    def facts(self) -> Facts:
        """How many events were sent, dropped, and wait."""
        return facts(self._outlets)

    def collect(self) -> Iterable[Metric]:
        """The same as Prometheus metrics."""
        return families(self.facts())

    def close(self) -> None:
        """Send the last summaries, and end deliveries."""
        self._ending.set()
        self._clock.join()
        self._sum_up(all_of_them=True)
        for outlet in self._outlets:
            outlet.close()

    def _watch(self) -> None:
        while not self._ending.wait(min(1.0, self._window)):
            self._sum_up()
            self._report_findings()

    def _report_findings(self) -> None:
        """Send what evidence has found of each model: once, and again when it changes."""
        findings, now = self._findings(), time.monotonic()
        for name, (_, told_at) in list(self._reported.items()):
            if name not in findings and now - told_at >= self._repeat:
                del self._reported[name]  # it is over: when it comes again, it is news
        for name, finding in findings.items():
            model = self._models.get(name)
            inputs = finding.of_inputs() if finding.inputs else None
            what = model and model.digests[0], finding.broken, {cause[:2] for cause in finding.chief}, inputs
            last, told_at = self._reported.get(name, (None, -self._repeat))
            if model is None or what == last or now - told_at < self._repeat:
                continue
            self._reported[name] = what, now
            data = evidence(name, model.digests[0], finding.brief())
            with self._lock:
                self._tell(event(EVIDENCE, self._identifiers.next(), subject(name), time.time(), data))

    def _sum_up(self, *, all_of_them: bool = False) -> None:
        """Send the sums of alarms that were only counted, once their time is over."""
        with self._lock:
            for summary in self._storms.ended(time.monotonic(), all_of_them=all_of_them):
                now, lasted = time.time(), time.monotonic() - summary.began
                self._tell(
                    event(
                        SUM,
                        self._identifiers.next(),
                        subject(summary.model),
                        now,
                        alarm_sum(summary, now - lasted, now),
                    )
                )

    def _tell(self, content: Event) -> None:
        if content["type"] != EVIDENCE:
            self.latest.append(without_messages(content))
        text = line(content)
        for outlet in self._outlets:
            outlet.put(text)
