"""One model's batch, from its signals to the verdicts of its calls, whatever fails on the way."""

from __future__ import annotations

import time
from collections.abc import Callable

from tocsin.judgement.batch_verdicts import finite_scores, give_verdicts
from tocsin.judgement.call import Read
from tocsin.judgement.message_run import MessageRun
from tocsin.judgement.model import GuardedModel
from tocsin.judgement.reporting import VerdictReporter
from tocsin.judgement.sink import Scored, Sinks
from tocsin.protocols.rows import Family, Stacking
from tocsin.unscored import Unscored


class BatchScorer:
    """Scores batches, gives their calls verdicts, and reports both to `sinks`. Calls that cannot be scored pass
    unscored, and others of their batch are scored without them.

    With `keep`, nothing is scored: each batch is passed to `keep` instead.
    """

    def __init__(
        self,
        sinks: Sinks,
        reporter: VerdictReporter,
        keep: Callable[[GuardedModel, Family, list[Read]], None] | None,
    ) -> None:
        self._sinks = sinks
        self._reporter = reporter
        self._keep = keep

    def score(self, model: GuardedModel, family: Family, batch: list[Read], started: float) -> None:
        """Score and judge one model's batch, and report it. `started`: when reading it began (time.perf_counter).
        Never raises.
        """
        if model.previous is not None:
            family, batch = self._with_previous(model, family, batch)
        if batch:
            self._score_safely(model, family, batch, started)

    def _with_previous(self, model: GuardedModel, family: Family, batch: list[Read]) -> tuple[Family, list[Read]]:
        """A batch with the signals of previous responses. Calls of which these are not known pass unscored."""
        assert model.previous is not None
        try:
            sessions = [model.session_of(call) for call, _, _ in batch]
            family, joined, refused = model.previous.join(family, batch, sessions)
        except Exception as error:
            why = Unscored("scorer_error", f"{type(error).__name__}: {error}")
            joined, refused = [], [(call, why) for call, _, _ in batch]
        for call, reason in refused:
            self._reporter.pass_unscored(call, reason)
        return family, joined

    def _score_safely(self, model: GuardedModel, family: Family, batch: list[Read], started: float) -> None:
        try:
            self._score(model, family, batch, started)
        except Exception as error:
            for call, _, _ in batch:
                self._reporter.pass_unscored(call, Unscored("scorer_error", f"{type(error).__name__}: {error}"))

    def _score(self, model: GuardedModel, family: Family, batch: list[Read], started: float) -> None:
        if self._keep is not None:
            self._keep(model, family, batch)
            return
        scoring = model.scoring
        assert scoring is not None  # calls of a model without one are not read
        stacking = Stacking(family, [raws for _, _, raws in batch], sum([rows for _, rows, _ in batch]))
        try:
            scores = finite_scores(scoring, stacking)
        except Exception as error:
            run = batch[0][0] if len(batch) == 1 else None
            if isinstance(run, MessageRun):
                batch = run.rows_apart()
            if run is None or isinstance(run, MessageRun):
                for read in batch:  # find the broken one, such as one token id beyond a table, and score the others
                    self._score_safely(model, family, [read], started)
                return
            if not isinstance(error, Unscored):
                raise
            self._reporter.pass_unscored(batch[0][0], error)
            return
        judged = scoring.judge(scores, batch, model, stacking.signals)
        self._reporter.warn_keyless(model, judged.keyless)
        calls, late = give_verdicts(scoring, model.policy, batch, judged)
        for call, _ in late:
            self._reporter.pass_unscored(call, Unscored("late", "the verdict missed the scoring budget"))
        if calls or judged.ended:
            seconds = time.perf_counter() - started
            report = Scored(
                model.name,
                calls,
                scores,
                seconds,
                judged.joint,
                judged.groups,
                judged.ended,
                judged.keyless,
                stacking.signals,
                family.shapes,
            )
            self._sinks.scored(report.without({row for _, rows in late for row in rows}) if late else report)
