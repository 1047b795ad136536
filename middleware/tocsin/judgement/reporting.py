"""Who learns of verdicts: sinks, the streams that pieces belong to, and the log, where a call could not be scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tocsin.configuration.config import Config
from tocsin.judgement.call import Call, StreamedCall
from tocsin.judgement.call_reader import OTHER
from tocsin.judgement.message_run import MessageRun
from tocsin.judgement.model import GuardedModel
from tocsin.judgement.scoring import Scoring
from tocsin.judgement.sink import Scored, Sinks
from tocsin.judgement.unscored_log import UnscoredLog
from tocsin.unscored import Unscored
from tocsin.verdict import Verdict


class VerdictReporter:
    """Reports verdicts to `sinks`, and gives those of calls that pass unscored."""

    def __init__(self, sinks: Sinks) -> None:
        self._sinks = sinks
        self._log = UnscoredLog()

    def follow(self, config: Config, models: Mapping[str, GuardedModel]) -> None:
        """Report by this configuration from here on."""
        self._config = config
        self._models = models
        self._log.forget_keyless()

    def fails_closed(self, call: Call) -> bool:
        """Whether a call that cannot be scored must not pass."""
        if self._config.mode != "enforce":
            return False
        model = self._models.get(call.model)
        configured = model.config.fail if model is not None else None
        return (configured or self._config.fail) == "closed"

    def action_unscored(self, call: Call) -> str | None:
        """The action of the verdict of a call that cannot be scored; None: it passes."""
        return "block" if self.fails_closed(call) else None

    def warn_keyless(self, model: GuardedModel, counts: tuple[int, int]) -> None:
        """Warn once of calls that name no session, or no group; `counts` are how many did not."""
        if counts != (0, 0):
            self._log.warn_keyless(model.name, model.config, counts)

    def pass_unscored(self, call: Call, why: Unscored) -> None:
        """Give a call the verdict that it could not be scored."""
        model = call.model or OTHER
        call.verdict = Verdict(model, call.version, unscored=why.reason, action=self.action_unscored(call))
        self._sinks.unscored(call)
        self._log.warn_unscored(call, call.verdict, why)

    def pass_alone(self, call: Call, why: Unscored) -> None:
        """A call passes unscored, judged with no others."""
        self.pass_unscored(call, why)
        self._report_piece(call)

    def report_pieces(self, calls: Sequence[Call], postponed: Sequence[tuple[Call, int]]) -> None:
        """Pieces of streams among the calls have their verdicts, but for those that were postponed."""
        waiting = {id(call) for call, _ in postponed}
        for call in calls:
            if id(call) not in waiting:
                self._report_piece(call)

    def _report_piece(self, call: Call) -> None:
        """Where a call is a piece of a stream, the stream learns its verdict, and may be complete with it."""
        parent = call.parent
        if parent is not None:
            if isinstance(call, MessageRun):
                call.tell_stream()
            else:
                parent.on_piece_judged(call)
            if parent.is_closed and not parent.pending:
                self.end_sessions(parent)

    def end_sessions(self, call: StreamedCall) -> None:
        """A stream has ended: end the sessions that its sequences are."""
        model = self._models.get(call.model)
        if model is not None and model.scoring is not None and model.streams_are_sessions:
            self.report_ended(model.name, model.scoring, model.end_sessions(call))

    def report_ended(self, name: str, scoring: Scoring, ended: list[str | None]) -> None:
        """Report sessions of a model that have ended."""
        if ended:
            none = np.empty((0, len(scoring.scorer.detectors)), np.float32)
            self._sinks.scored(Scored(name, [], none, 0.0, ended=ended))
