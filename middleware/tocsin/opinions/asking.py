"""Asks a judge about the calls of one model: a bounded queue, and threads that nobody waits for."""

from __future__ import annotations

import logging
import random
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tocsin.configuration.second_opinion import SecondOpinionConfig
from tocsin.events.json_lines import JsonLines
from tocsin.log_throttle import LogThrottle, and_more
from tocsin.opinions.health import CALLS, LOST, MICROSECONDS, OpinionCounts
from tocsin.opinions.judge_model import JudgeModel, PacedJudge
from tocsin.opinions.log_sigmoid import LogSigmoid
from tocsin.opinions.lost import Lost
from tocsin.opinions.next_turn import AnswerLabels
from tocsin.opinions.opinion import Opinion
from tocsin.opinions.opinion_scores import opinion_scores
from tocsin.opinions.pace import Pace
from tocsin.protocols.texts import Conversation, Texts
from tocsin.unscored import Unscored

log = logging.getLogger("tocsin")

Drawn = Literal["share", "alarm"]


class DrawnCall(NamedTuple):
    """A call to ask about: its messages, what drew it, and when (time.monotonic)."""

    method: str
    request: bytes | None
    responses: Sequence[bytes]
    version: str
    trace: str
    traceparent: str
    response_id: str
    drawn: Drawn
    time: float


class Questions(NamedTuple):
    """What is asked about the calls of one model, and of whom; the further judges of `agreement` and the embedder of
    `diversity`; the key that draws
    calls, None for the process's own, and the file that gets scores.
    """

    config: SecondOpinionConfig
    opinions: Mapping[str, Opinion | LogSigmoid]
    texts: Mapping[str, Texts]  # by method
    judge: JudgeModel
    other_judges: Sequence[JudgeModel] = ()
    embedder: JudgeModel | None = None
    labels: Mapping[str, AnswerLabels] = MappingProxyType({})  # of answers before the call's own, by opinion
    key: bytes | None = None
    scores: JsonLines | None = None


class OpinionConsumer(Protocol):
    """Takes what becomes known of drawn calls. Called by the queue's threads."""

    def on_texts(self, call: DrawnCall, conversation: Conversation) -> None:
        """The texts of a call were read."""
        ...

    def on_scores(self, call: DrawnCall, conversation: Conversation, scores: dict[str, float], began: int) -> None:
        """The scores of a call's opinions, those that were given; asking began at `began`, nanoseconds of Unix time."""
        ...

    def on_agreement(self, scores_by_judge: Sequence[Mapping[str, float]]) -> None:
        """The scores of a call that several judges were asked about, judge by judge."""
        ...

    def on_embedding(self, embedding: NDArray[np.float32]) -> None:
        """The embedding of a drawn answer."""
        ...


class AskingQueue:
    """The calls of one model that wait to be asked about. `pace` is the budget of calls."""

    def __init__(
        self,
        model: str,
        questions: Questions,
        pace: Pace,
        counts: OpinionCounts,
        consumer: OpinionConsumer,
    ) -> None:
        self.model, self.questions, self.pace = model, questions, pace
        self._counts, self._consumer = counts, consumer
        self._waiting: deque[DrawnCall] = deque()
        self._changed = threading.Condition()
        self._retired = False  # no more calls are taken from here
        self._ending = threading.Event()  # calls under way need not be waited for
        self._is_closed = False
        self._throttle = LogThrottle()
        self._threads = [
            threading.Thread(target=self._run, name=f"tocsin-opinion-{model}", daemon=True)
            for _ in range(questions.config.concurrent)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """How many calls wait."""
        return len(self._waiting)

    @property
    def is_busy(self) -> bool:
        """Whether some of its threads run."""
        return any(thread.is_alive() for thread in self._threads)

    def put(self, call: DrawnCall) -> None:
        """Have a call asked about; it is lost where too many wait. Never blocks for long and never raises."""
        with self._changed:
            if len(self._waiting) < self.questions.config.queue and not self._retired:
                self._waiting.append(call)
                self._changed.notify()
                return
        self.lose("draining" if self._retired else "queue_full")

    def lose(self, reason: str) -> None:
        """No opinion of a call is given."""
        for name in self.questions.opinions:
            self._counts.add(LOST, self.model, name, reason)

    def retire(self) -> list[DrawnCall]:
        """Ask about no more calls but those under way. Returns the calls that waited."""
        with self._changed:
            self._retired = True
            waiting, self._waiting = list(self._waiting), deque()
            self._changed.notify_all()
        return waiting

    def end(self) -> None:
        """The process ends: calls that wait are lost, and so are those under way that wait for their turn."""
        waiting = self.retire()
        self._ending.set()
        for _ in waiting:
            self.lose("draining")

    def join(self, deadline: float) -> None:
        """Wait for calls under way, at most until `deadline` (time.monotonic)."""
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._is_closed = True

    def _run(self) -> None:
        while (call := self._next_call()) is not None:
            try:
                self._ask(call, self.questions)
            except Exception as error:
                self.lose("failed")
                at = traceback.extract_tb(error.__traceback__)[-1]  # its text might tell what the call said
                self._log("failed", f"{type(error).__name__} in {Path(at.filename).name}, line {at.lineno}")

    def _next_call(self) -> DrawnCall | None:
        with self._changed:
            while not self._waiting:
                if self._retired:
                    return None
                self._changed.wait()
            return self._waiting.popleft()

    def _ask(self, call: DrawnCall, questions: Questions) -> None:
        began = time.time_ns()
        deadline = call.time + questions.config.max_wait.total_seconds()
        try:
            conversation = _texts_of(call, questions.texts)
        except Lost as why:
            self.lose(why.reason)
            self._log(why.reason, str(why))
            return
        self._consumer.on_texts(call, conversation)

        def paced(model: JudgeModel) -> PacedJudge:
            return PacedJudge(model, self.pace, deadline, self._ending, self._count_call)

        def scores_of(judge: JudgeModel, lose: Callable[[str, Lost], None]) -> dict[str, float]:
            return opinion_scores(questions.opinions, paced(judge), conversation, lose)

        scores = scores_of(questions.judge, self._lose_opinion)
        if scores and not self._is_closed:  # or nobody takes scores any more
            self._consumer.on_scores(call, conversation, scores, began)
        agreement = questions.config.agreement
        if agreement is not None and call.drawn == "share" and random.random() < agreement.share:
            others = [scores_of(judge, self._log_opinion) for judge in questions.other_judges]
            self._consumer.on_agreement([scores, *others])
        if questions.embedder is not None and call.drawn == "share":
            try:
                self._consumer.on_embedding(paced(questions.embedder).embedding(conversation.answer))
            except Lost as why:
                self._log(why.reason, f"diversity: {why}")

    def _lose_opinion(self, name: str, why: Lost) -> None:
        self._counts.add(LOST, self.model, name, why.reason)
        self._log_opinion(name, why)

    def _log_opinion(self, name: str, why: Lost) -> None:
        self._log(why.reason, f"opinion {name}: {why}")

    def _count_call(self, seconds: float) -> None:
        self._counts.add(CALLS, self.model)
        self._counts.add(MICROSECONDS, self.model, number=round(seconds * 1e6))

    def _log(self, reason: str, what: str) -> None:
        if reason != "draining" and (suppressed := self._throttle.admit(reason)) is not None:
            log.warning("model %s: no second opinion (%s): %s%s", self.model, reason, what, and_more(suppressed))


def _texts_of(call: DrawnCall, texts: Mapping[str, Texts]) -> Conversation:
    """The texts of a call. Raises Lost."""
    reader = texts.get(call.method)
    if reader is None:
        raise Lost("no_text", f"of {call.method} no text is known")
    try:
        conversation = reader.read(call.request, call.responses)
    except Unscored as why:
        raise Lost("no_text", str(why)) from None
    if not conversation.question.strip() or not conversation.answer.strip():
        side = "answer" if conversation.question.strip() else "question"
        raise Lost("no_text", f"a call of {call.method} has no text of the {side}")
    return conversation
