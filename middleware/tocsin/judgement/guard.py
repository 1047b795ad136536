"""The guard turns a call's messages into its verdict."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tocsin.configuration.config import Config
from tocsin.judgement.call import Call, StreamedCall
from tocsin.judgement.call_plan import CallPlan
from tocsin.judgement.method_plans import method_plans, sends_payloads
from tocsin.judgement.model import GuardedModel, guarded_models
from tocsin.judgement.scoring import Scoring
from tocsin.judgement.shadow import by_candidates
from tocsin.judgement.sink import Scored, Sink, Sinks
from tocsin.judgement.unscored_log import UnscoredLog
from tocsin.protocols.method import Edit, Method, Opened
from tocsin.protocols.rows import Family, Rows
from tocsin.state.opening import State
from tocsin.unscored import Unscored
from tocsin.verdict import Verdict

TRACE_KEY = "traceparent"
HEX, NO_TRACE = "0123456789abcdef", "0" * 32
NAMED = 5  # configured models that a message names
OTHER = "other"  # the label of models that are not configured
NO_KEYS: Mapping[str, str] = {}
ALL_ROWS = 1 << 60  # more than there are


_NONE = np.full((1, 1), np.nan, np.float32)
_OF_EMPTY = (
    "missing_signal",
    "unknown_model",
    "unmatched_request",
    "no_bundle",
)  # expected of a message that carries nothing
_NO_BUNDLE = Unscored("no_bundle", "no model has a bundle")

Read = tuple[Call, int, list[bytes]]  # a call whose signals were found: its rows, and each signal's raw contents


class Guard:
    """Judges calls by the bundles of a configuration. Safe to use from several threads.

    Made by `Guard.open`. Every verdict goes to `sinks`. `is_blocking`: judging may hold up an event loop for too long.
    `timed`: calls record when they began and the caller's span, for sinks that make spans. With `keep`, nothing is
    judged and no bundle is needed: each batch of one model is passed to `keep` instead.
    """

    timed = False

    def __init__(
        self,
        config: Config,
        models: Mapping[str, GuardedModel],
        sinks: Iterable[Sink] = (),
        state: State | None = None,
        keep: Callable[[GuardedModel, Family, list[Read]], None] | None = None,
    ) -> None:
        self._keep = keep
        self.sinks = Sinks(sinks)
        self.state = state or State()
        self._log = UnscoredLog()
        self.reconfigure(config, models)

    def reconfigure(self, config: Config, models: Mapping[str, GuardedModel]) -> None:
        """Judge by these from here on. Calls that are being judged finish by the old ones."""
        self.config = config
        self.models = dict(models)
        self._log.forget_keyless()
        self.state.keep([store for model in self.models.values() for store in model.stores])
        self.methods, self._of_method = _by_method(self.models.values())
        self._method_plans = method_plans(config, self.methods, self._of_method)
        told_by = {key for model in self.models.values() for key in model.metadata_keys}
        told_by |= {key for method in self.methods.values() for key in (method.model_key, method.version_key)}
        self._keys = sorted(told_by - {""})
        self.score_keys = sorted({key for model in self.models.values() for key in model.score_keys})
        self._budgets = {
            name: max(config.budget(m.name, shares_sessions=m.shares_sessions) for m in models).total_seconds()
            for name, models in self._of_method.items()
        }
        self.is_blocking = any(model.is_blocking for model in self.models.values())
        self.shadows = any(model.shadow is not None for model in self.models.values())
        self._has_no_bundle = self._keep is None and all(model.scoring is None for model in self.models.values())
        self.reads_responses = sends_payloads(config) or not self._has_no_bundle  # whether anybody reads messages
        self._default_model = next(iter(self.models)) if len(self.models) == 1 else OTHER

    @classmethod
    def open(cls, config: Config | Path | str, sinks: Iterable[Sink] = ()) -> Self:
        """Open a guard from a configuration or its file; read its bundles and run each once.

        Raises ConfigError or BundleError, naming the file and what is wrong.
        """
        if not isinstance(config, Config):
            config = Config.load(config)
        state = State(config.state, config.round_trip)
        return cls(config, guarded_models(config, state), sinks, state)

    @property
    def metadata_keys(self) -> list[str]:
        """The request metadata that `call` reads."""
        return list(dict.fromkeys([TRACE_KEY, *self._keys]))

    @property
    def response_metadata_keys(self) -> list[str]:
        """The response metadata that some call reads."""
        return sorted({key for plan in self._method_plans.values() for key in (*plan.initial, *plan.trailing)})

    @property
    def reads_requests(self) -> bool:
        """Whether somebody reads the request of some method: a model's signals, receivers of events, or a judge."""
        return any(plan.wants_request for plan in self._method_plans.values())

    def call(self, method: str, metadata: Mapping[str, str], hint: str = "", origin: str = "") -> Call | None:
        """A call to judge, or None when no model guards the method. `hint`: the model's name, where calls do not give
        it.
        """
        plan = self.plan(method, metadata)
        return None if plan is None else self.begin(plan, hint, origin)

    def plan(self, method: str, metadata: Mapping[str, str]) -> CallPlan | None:
        """What calls of a method with these metadata have in common, until the guard is reconfigured. None when no
        model guards the method.
        """
        of_method = self._method_plans.get(method)
        if of_method is None:
            return None
        keys = {key: metadata[key] for key in self._keys if key in metadata} if self._keys else NO_KEYS
        parent = metadata.get(TRACE_KEY, "")
        model_key = of_method.reads.model_key
        return CallPlan(
            of_method, keys, parent, _trace_id(parent) if parent else "", keys.get(model_key) if model_key else None
        )

    def begin(self, plan: CallPlan, hint: str, origin: str) -> Call:
        """Make the call object of one RPC by its plan. `hint` names the model where the call does not, `origin` the
        connection. Nothing is judged yet.
        """
        reads, wants_request, every, together, in_turn, initial, trailing = plan.of_method
        if plan.streams:
            call: Call = StreamedCall(
                reads, plan.keys, plan.trace, wants_request, every, together=together, in_turn=in_turn
            )
        else:
            call = Call(reads, plan.keys, plan.trace, wants_request)
        call.hint = hint if plan.hint is None else plan.hint
        call.origin = origin
        if plan.wants_metadata:
            call.wants_initial, call.wants_trailing = initial, trailing
        if self.timed:
            call.began, call.traceparent = time.time_ns(), plan.traceparent
        return call

    def judge(self, calls: Sequence[Call], most_rows: int = 0) -> list[tuple[Call, int]]:
        """Give every call its verdict, scoring the calls of one model as one batch. Never raises.

        With `most_rows`, at most that many rows are scored. Returns the calls that have no verdict for that reason,
        each with its number of rows, or 0 where that is not known yet.
        """
        started = time.perf_counter()
        batches: dict[Family, list[Read]] = {}
        room = most_rows or ALL_ROWS
        postponed: list[tuple[Call, int]] = []
        in_pieces = False  # whether there are pieces of streams among the calls
        for call in calls:
            if call.parent is not None:
                in_pieces = True
            if room <= 0:
                postponed.append((call, 0))
                continue
            try:
                signals = self._read(call)
            except Unscored as why:
                self._pass_unscored(call, why)
                continue
            except Exception as error:
                self._pass_unscored(call, Unscored("undecodable", f"{type(error).__name__}: {error}"))
                continue
            if signals is None:
                continue
            family, read = signals
            rows = read[1]
            if rows > room:
                postponed.append((call, rows))
                continue
            room -= rows
            batch = batches.get(family)
            if batch is None:
                batches[family] = [read]
            else:
                batch.append(read)
        for family, batch in batches.items():
            self._score_safely(family.model, family, batch, started)
        if in_pieces:
            self._tell_parents(calls, postponed)
        return postponed

    def _tell_parents(self, calls: Sequence[Call], postponed: Sequence[tuple[Call, int]]) -> None:
        """Pieces of streams among the calls have their verdicts, but for those that were postponed."""
        waiting = {id(call) for call, _ in postponed}
        for call in calls:
            parent = call.parent
            if parent is not None and id(call) not in waiting:
                parent.judged(call)
                if parent.is_closed and not parent.pending:
                    self._end_sessions(parent)

    def shadow(self, calls: Sequence[Call]) -> None:
        """Score judged calls by the candidate bundles. Their verdicts have no effect on responses."""
        for call, pvalues in by_candidates(self.models, calls):
            self.sinks.shadowed(call, pvalues)

    def _score_safely(self, model: GuardedModel, family: Family, batch: list[Read], started: float) -> None:
        try:
            self.score(model, family, batch, started)
        except Exception as error:
            for call, _, _ in batch:
                self._pass_unscored(call, Unscored("scorer_error", f"{type(error).__name__}: {error}"))

    def pass_unread(self, call: Call) -> None:
        """Let a call pass that there is nothing to judge by, for guards that read no responses: at once, as it needs
        not wait for others to be judged with it.
        """
        call.model = self._default_model
        self._passed_alone(call, _NO_BUNDLE if call.fault is None else Unscored(*call.fault))
        call.forget()

    def give_up(self, call: Call, reason: str, detail: str) -> None:
        """Let a call pass unscored, for a reason that the position found."""
        call.model = call.model or self._default_model
        self._passed_alone(call, Unscored(reason, detail))

    def _passed_alone(self, call: Call, why: Unscored) -> None:
        """A call passes unscored, judged with no others."""
        self._pass_unscored(call, why)
        parent = call.parent
        if parent is not None:
            parent.judged(call)
            if parent.is_closed and not parent.pending:
                self._end_sessions(parent)

    def late(self, call: Call) -> Verdict:
        """The verdict that callers see when the scoring budget is spent. The real one is counted when it arrives."""
        call.model = self.model_of(call)
        return Verdict(call.model, call.version, unscored="late", action="block" if self.closed(call) else None)

    def model_of(self, call: Call) -> str:
        """The name of a call's model, as far as it can be known before the call is judged."""
        if call.model:
            return call.model
        served = self._of_method.get(call.method, ())
        name = call.hint
        if not name and len(served) > 1 and call.response is not None:
            with suppress(Unscored):
                name = call.reads.open(call.response, call.request).model
        if name in self.models:
            return name
        return served[0].name if len(served) == 1 else OTHER

    def on_call_closed(self, call: Call) -> None:
        """No more of a call comes. Where the call is a session, that session ends once all of it is judged."""
        if isinstance(call, StreamedCall) and not call.is_closed:
            call.is_closed = True
            if not call.pending:
                self._end_sessions(call)

    def edits(self, call: Call) -> list[Edit]:
        """What to ask the model for besides, for each model that guards the call's method."""
        models = self._of_method.get(call.method, [])
        return [model.edits[call.method] for model in models if call.method in model.edits]

    def budget(self, call: Call) -> float:
        """How many seconds a call may wait for its verdict."""
        seconds = self._budgets.get(call.method)
        return self.config.scoring_budget.total_seconds() if seconds is None else seconds

    def closed(self, call: Call) -> bool:
        """Whether a call that could not be scored must not pass."""
        if self.config.mode != "enforce":
            return False
        model = self.models.get(call.model)
        configured = model.config.fail if model is not None else None
        return (configured or self.config.fail) == "closed"

    def acted(self, call: Call, action: str) -> None:
        """Report what was done to a call in enforce: one of `verdict.ACTIONS`, or `refused` when it failed closed."""
        self.sinks.acted(call, action)

    def _read(self, call: Call) -> tuple[Family, Read] | None:
        """Read what is to be scored. Returns None for a piece of a stream that carries nothing to judge: it summarises
        what was judged before, or has neither content nor signals.
        """
        call.model = self._default_model
        response = call.response
        if call.fault is not None:
            raise Unscored(*call.fault)
        if response is None:
            raise Unscored("no_response", "the call has no response message")
        if self._has_no_bundle:
            self._pass_unscored(call, _NO_BUNDLE)
            return None
        opened = [call.reads.open(response, call.request)]
        if call.parent is None:
            return self._signals_of(call, opened)
        if call.earlier:
            opened = [*(call.reads.open(message, call.request) for message in call.earlier), *opened]
        try:
            return self._signals_of(call, opened)
        except Unscored as why:
            if why.reason not in _OF_EMPTY or not all(part.empty for part in opened):
                raise
            return None

    def _signals_of(self, call: Call, opened: Sequence[Opened]) -> tuple[Family, Read] | None:
        """Find the model of a response, and read its signals. Raises Unscored."""
        first = opened[0]
        name = first.model or call.hint
        model = self.models.get(name) or self._model_of(call, name)
        call.model = model.name
        version_key = call.reads.version_key
        call.version = call.keys.get(version_key, "") if version_key else first.version
        if model.scoring is None and self._keep is None:
            raise Unscored("no_bundle", f"model '{model.name}' has no bundle")
        parent = call.parent
        if parent is not None:
            call.sequence = opened[-1].sequence
            if call.sequence in parent.started_sequences and all(part.is_summary for part in opened):
                call.is_summary = True
                return None
        if call.is_unmatched and model.reads_request(call.method):
            raise Unscored("unmatched_request", "it cannot be matched with one of the stream's requests")
        if parent is not None and not all(part.empty for part in opened):
            parent.started_sequences.add(call.sequence)
        rows, family, raws = model.signals_of(call, opened)
        if model.orders is not None:
            raws = model.orders.put_in_order(raws, call.keys, model.session_of(call))
        return family, (call, rows, raws)

    def _model_of(self, call: Call, name: str) -> GuardedModel:
        """The model of a call that names no configured one, where only one is possible. Raises Unscored."""
        served = self._of_method.get(call.method, [])
        if not name and len(served) == 1:
            return served[0]
        call.model = OTHER
        names = ", ".join(model.name for model in served[:NAMED])
        hint = f"; of this protocol there are: {names}" if names else ""
        raise Unscored(
            "unknown_model", f"model '{name}' is not configured{hint}" if name else "the call names no model"
        )

    def score(self, model: GuardedModel, family: Family, batch: list[Read], started: float) -> None:
        """Score and judge one model's batch. `started`: when reading it began (time.perf_counter)."""
        if self._keep is not None:
            self._keep(model, family, batch)
            return
        scoring = model.scoring
        assert scoring is not None  # a model without one has no batch: `_signals_of` raises
        signals = family.stack([raws for _, _, raws in batch])
        try:
            scores = scoring.run(signals)
        except Exception:
            if len(batch) == 1:
                raise
            scores = _NONE  # such as one token id beyond an embedder's table
        masked = scoring.scorer.masked
        if not (
            _finite(scores)
            and all(_meaningful(signals[name], name in masked) for name in scoring.nonfinite_masked_signals)
        ):
            if len(batch) > 1:  # find the broken one and score the others
                for read in batch:
                    self._score_safely(model, family, [read], started)
                return
            broken = [name for name, values in signals.items() if not _meaningful(values, name in masked)]
            problem = f"signal '{broken[0]}' holds NaN or infinity" if broken else "a score is NaN or infinite"
            self._pass_unscored(batch[0][0], Unscored("not_finite", problem))
            return
        self._tell(family, scoring, batch, signals, scores, started)

    def _tell(
        self,
        family: Family,
        scoring: Scoring,
        batch: list[Read],
        signals: Rows,
        scores: NDArray[np.float32],
        started: float,
    ) -> None:
        """Give the calls of a batch their verdicts, and report them to the sinks."""
        model: GuardedModel = family.model
        judged = scoring.judge(scores, batch, model, signals)
        pvalues, by_detector, severities, joint, groups, weighed, identifiers, ended, keyless = judged
        if keyless != (0, 0):
            self._log.warn_keyless(model.name, model.config, keyless)
        at = 0
        calls = []
        late: set[int] = set()  # rows that nobody waits for any more
        plain, detectors, digest = model.policy.plain, scoring.scorer.detectors, scoring.digest
        listed = isinstance(by_detector, list)
        names = iter(identifiers)
        for call, rows, _ in batch:
            first, at = at, at + rows
            identifier = next(names) if identifiers else ""
            if call.late or (call.parent is not None and call.parent.late):
                self._pass_unscored(call, Unscored("late", "the verdict missed the scoring budget"))
                late.update(range(first, at))
                continue
            severity, worst = severities[first], first
            if rows == 1:
                of_rows, severities_of_rows = [pvalues[first]], [severity]
            else:
                of_rows, severities_of_rows = pvalues[first:at], severities[first:at]
                severity = scoring.promise.gravest(severities_of_rows)
                worst = min(range(first, at), key=pvalues.__getitem__)
            details: Any = by_detector[worst]
            worth = None if weighed is None else weighed.rows(first, at)
            call.verdict = Verdict(
                call.model,
                call.version,
                digest,
                of_rows,
                severities_of_rows,
                detectors,
                details if listed else details.tolist(),
                severity,
                worth,
                identifier,
                action=None if plain else model.policy.action(severity, severities_of_rows, worth, call),
            )
            calls.append(call)
        if calls or ended:
            if late:
                scores = np.delete(scores, list(late), axis=0)
                signals = {name: np.delete(values, list(late), axis=0) for name, values in signals.items()}
                joint = [value for row, value in enumerate(joint) if row not in late]
                groups = groups and [group for row, group in enumerate(groups) if row not in late]
            seconds = time.perf_counter() - started
            self.sinks.scored(
                Scored(model.name, calls, scores, seconds, joint, groups, ended, keyless, signals, family.shapes)
            )

    def end_silent_sessions(self) -> None:
        """End the sessions that have been silent for too long. A timer calls this, with or without traffic."""
        for model in list(self.models.values()):
            if model.scoring is not None:
                self._tell_ended(model.name, model.scoring, model.scoring.judge.silent())

    def _tell_ended(self, name: str, scoring: Scoring, ended: list[str | None]) -> None:
        if ended:
            none = np.empty((0, len(scoring.scorer.detectors)), np.float32)
            self.sinks.scored(Scored(name, [], none, 0.0, ended=ended))

    def _end_sessions(self, call: StreamedCall) -> None:
        """A stream has ended: end the sessions that its sequences are."""
        model = self.models.get(call.model)
        if model is None or model.scoring is None or not model.streams_are_sessions:
            return
        keys = [call.session(sequence) for sequence in call.started_sequences]
        ended = model.scoring.judge.finish(keys)
        if (shadow := model.shadow) is not None and shadow.scoring is not None and shadow.streams_are_sessions:
            shadow.scoring.judge.finish(keys)
        self._tell_ended(model.name, model.scoring, ended)

    def _pass_unscored(self, call: Call, why: Unscored) -> None:
        model = call.model or OTHER
        call.verdict = Verdict(model, call.version, unscored=why.reason, action="block" if self.closed(call) else None)
        self.sinks.unscored(call)
        self._log.warn_unscored(call, call.verdict, why)


def _finite(values: NDArray[np.float32]) -> bool:
    """Whether all values are finite. Faster than `np.isfinite(values).all()`."""
    return b"\0" not in np.isfinite(values).tobytes()


def _meaningful(values: NDArray[np.float32], masked: bool) -> bool:
    """Whether all values of a signal are finite. Where the signal is `masked`, -inf passes: the logarithm of 0."""
    return b"\0" not in np.less(values, np.inf).tobytes() if masked else _finite(values)


def _by_method(models: Iterable[GuardedModel]) -> tuple[dict[str, Method], dict[str, list[GuardedModel]]]:
    """The guarded methods, and the models of each."""
    methods: dict[str, Method] = {}
    of_method: dict[str, list[GuardedModel]] = {}
    for model in models:
        for method in model.served.values():
            methods[method.name] = method
            of_method.setdefault(method.name, []).append(model)
    return methods, of_method


def _trace_id(traceparent: str) -> str:
    """The trace id of a W3C traceparent, or "" where there is none."""
    if len(traceparent) < 55 or not traceparent[2] == traceparent[35] == traceparent[52] == "-":
        return ""
    trace = traceparent[3:35]
    return "" if trace.strip(HEX) or trace == NO_TRACE else trace  # stripped of digits, nothing is left of an id
