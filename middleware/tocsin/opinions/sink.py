"""Second opinions of served calls: draws calls as they begin, and hands them to the queues once they are judged."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from prometheus_client.metrics_core import Metric

from tocsin.configuration.config import Config
from tocsin.configuration.second_opinion import SecondOpinionConfig, opinion_model
from tocsin.events.alarm import rfc3339_time
from tocsin.judgement.call import Call
from tocsin.judgement.lottery import Lottery, Sampler
from tocsin.judgement.model import GuardedModel
from tocsin.judgement.sink import Scored, Sink, Sinks
from tocsin.opinions.agreement import AgreementWindows
from tocsin.opinions.asking import AskingQueue, Drawn, DrawnCall, Questions
from tocsin.opinions.diversity import DiversityWindow
from tocsin.opinions.health import (
    AGREEMENT,
    DIVERSITY,
    GIVEN,
    INTRACLASS,
    WAITING,
    Facts,
    OpinionCounts,
    agreement_facts,
    diversity_facts,
    families,
    intraclass_facts,
)
from tocsin.opinions.models import DISBELIEVED, OpinionJudge
from tocsin.opinions.pace import Pace
from tocsin.opinions.questions import open_questions
from tocsin.protocols.texts import Conversation

CLOSE_TIMEOUT = 2.0  # seconds that calls of the judge have when the process ends


class OpinionSink(Sink):
    """Has a judge asked about calls that `lottery` has drawn, or that have alarmed. Nothing here waits for a judge.

    `models` are the served models, `promises` those of opinions (`opinion_models`). Judged opinions go to `sinks`.
    Raises ConfigError where a key, prompt, path or folder cannot be used.
    """

    takes_runs = True  # there are none where it asks anybody

    def __init__(
        self,
        config: Config,
        models: Mapping[str, GuardedModel],
        promises: Mapping[str, GuardedModel],
        sinks: Sinks,
    ) -> None:
        self.lottery = Lottery()
        self._counts = OpinionCounts()
        self._judge = OpinionJudge(config, promises, sinks)
        self._lock = threading.Lock()
        self._workers = config.workers
        self._process_key = secrets.token_bytes(32)
        self._drawing: dict[str, _Drawing] = {}
        self._retiring: list[AskingQueue] = []  # of before a reload, some of whose calls may be under way
        self._install(open_questions(models))

    def follow(self, config: Config, models: Mapping[str, GuardedModel], promises: Mapping[str, GuardedModel]) -> None:
        """Ask about these models from here on. Calls that wait stay in their queues. Raises ConfigError; then nothing
        has changed.
        """
        questions = open_questions(models)
        self._judge.follow(config, promises)
        self._install(questions)

    def scored(self, batch: Scored) -> None:
        """Have drawn calls of a judged batch asked about."""
        drawing = self._drawing.get(batch.model)
        if drawing is None:
            return
        for call in batch.calls:
            if call.drawn_for or drawing.asks_about_alarms:
                drawing.offer(call)

    def unscored(self, call: Call) -> None:
        """A call without a verdict is asked about as any other."""
        drawing = self._drawing.get(call.model)
        if drawing is not None and call.response is not None:
            drawing.offer(call)

    def facts(self) -> Facts:
        """What was given and lost, how many calls wait, how far judges agree, and how answers differ."""
        waiting = {name: drawing.queue.waiting for name, drawing in self._drawing.items()}
        agreement: dict[str, int] = {}
        intraclass: dict[str, int] = {}
        for name, drawing in self._drawing.items():
            if drawing.agreement is not None:
                agreement |= agreement_facts(name, drawing.agreement.sums())
                intraclass |= intraclass_facts(name, drawing.agreement.by_judge())
        diversity: dict[str, int] = {}
        for name, drawing in self._drawing.items():
            if drawing.diversity is not None and (of_window := drawing.diversity.diversity()).answers:
                diversity |= diversity_facts(name, of_window)
        return {
            **self._counts.facts(), WAITING: waiting, AGREEMENT: agreement, INTRACLASS: intraclass,
            DIVERSITY: diversity,
        }  # fmt: skip

    def collect(self) -> Iterable[Metric]:
        """The same as Prometheus metrics."""
        return families(self.facts())

    def close(self) -> None:
        """End. Calls under way have CLOSE_TIMEOUT seconds, those that wait are lost."""
        deadline = time.monotonic() + CLOSE_TIMEOUT
        queues = [*self._retiring, *(drawing.queue for drawing in self._drawing.values())]
        for queue in queues:
            queue.end()
        for queue in queues:
            queue.join(deadline)

    def _install(self, questions: Mapping[str, Questions]) -> None:
        with self._lock:
            before, drawing = self._drawing, {}
            samplers: dict[str, list[Sampler]] = {}
            for name, new in questions.items():
                old = before.get(name)
                pace = old.queue.pace if old is not None else Pace(0.0)
                pace.interval = 60.0 * self._workers / new.config.calls_per_minute
                drawing[name] = _Drawing(name, new, pace, self._counts, self._judge, old)
                sampler = Sampler(name, new.config.share, new.key or self._process_key)
                for method in new.texts:
                    samplers.setdefault(method, []).append(sampler)
            self._drawing = drawing
            self.lottery.samplers = samplers
            self._retiring = [queue for queue in self._retiring if queue.is_busy]
            self._retiring += [old.queue for old in before.values()]
            for name, old in before.items():
                for call in old.queue.retire():
                    queue = drawing[name].queue if name in drawing else old.queue
                    queue.put(call)  # a retired queue counts it as lost


class _Drawing:
    """Hands on drawn calls of one model, and takes the scores of what was asked. `before` is that of before a
    reload.
    """

    def __init__(
        self,
        model: str,
        questions: Questions,
        pace: Pace,
        counts: OpinionCounts,
        judge: OpinionJudge,
        before: _Drawing | None,
    ) -> None:
        config = questions.config
        self._model, self._questions, self._counts, self._judge = model, questions, counts, judge
        self.asks_about_alarms, self._max_text = config.alarmed, int(config.max_text)
        self._file = questions.scores
        self.agreement = _agreement(config, before)
        self.diversity = _diversity(config, before)
        disbelieved = [DISBELIEVED] if config.agreement is not None and config.agreement.at_least is not None else []
        counts.expect(
            model,
            {
                opinion: [*judge.severities(opinion_model(model, opinion)), *disbelieved]
                for opinion in questions.opinions
            },
            ("share", "alarm") if config.alarmed else ("share",),
        )
        self.queue = AskingQueue(model, questions, pace, counts, self)

    def offer(self, call: Call) -> None:
        """Have the call asked about where it was drawn, or has alarmed."""
        verdict, drawn = call.verdict, ""
        if self._model in call.drawn_for:
            drawn = "share"
        elif self.asks_about_alarms and verdict is not None and verdict.severity is not None:
            drawn = "alarm"
        if not drawn or call.response is None:
            return
        if call.size > self._max_text:
            self.queue.lose("too_large")
            return
        identifier = "" if verdict is None else verdict.identifier
        by: Drawn = "share" if drawn == "share" else "alarm"
        messages = [*call.earlier, call.response]
        self.queue.put(
            DrawnCall(
                call.method, call.request, messages, call.version, call.trace, call.traceparent, identifier, by,
                time.monotonic(),
            )
        )  # fmt: skip

    def on_texts(self, call: DrawnCall, conversation: Conversation) -> None:
        """Remember the answer, for its user's next turn. Labels of what an alarm chose alone would be no sample."""
        for labels in self._questions.labels.values() if call.drawn == "share" else ():
            labels.remember(conversation, call.response_id)

    def on_scores(self, call: DrawnCall, conversation: Conversation, scores: dict[str, float], began: int) -> None:
        """Judge, count, and write the scores of a call, and label the answer before it."""
        severities = {}
        for opinion, score in scores.items():
            if opinion in self._questions.labels and call.drawn == "share":
                self._questions.labels[opinion].on_score(conversation, score)
            name = opinion_model(self._model, opinion)
            if self.agreement is not None and not self.agreement.believes(opinion):
                severity = DISBELIEVED
            elif call.drawn == "share":
                severity = self._judge.judge(name, score, call, began)
            else:
                severity = self._judge.severity(name, score)
            severities[opinion] = severity
            self._counts.add(GIVEN, self._model, opinion, call.drawn, severity)
        if self._file is not None:
            content = {
                "time": rfc3339_time(time.time()), "model": self._model, "version": call.version,
                "trace_id": call.trace, "response_id": call.response_id, "severities": severities,
                **(scores if call.drawn == "share" else {"alarmed": scores}),
            }  # fmt: skip
            self._file.put(json.dumps(content, separators=(",", ":")).encode() + b"\n")

    def on_agreement(self, scores_by_judge: Sequence[Mapping[str, float]]) -> None:
        """Take note of how far judges agree about a call."""
        if self.agreement is not None:
            self.agreement.add(scores_by_judge)

    def on_embedding(self, embedding: NDArray[np.float32]) -> None:
        """Take note of an answer, to compare it with others."""
        if self.diversity is not None:
            self.diversity.add(embedding)


def _diversity(config: SecondOpinionConfig, before: _Drawing | None) -> DiversityWindow | None:
    """The window of a model's answers: that of before a reload, where the same embedder is asked."""
    if config.diversity is None:
        return None
    if before is not None and before.queue.questions.config.diversity == config.diversity:
        return before.diversity
    return DiversityWindow(config.diversity.window)


def _agreement(config: SecondOpinionConfig, before: _Drawing | None) -> AgreementWindows | None:
    """The windows of a model's judges: those of before a reload, where the same judges are asked the same."""
    if config.agreement is None:
        return None
    if before is not None:
        earlier = before.queue.questions.config
        if (earlier.judge, earlier.opinions, earlier.agreement) == (config.judge, config.opinions, config.agreement):
            return before.agreement
    return AgreementWindows(config.agreement)
