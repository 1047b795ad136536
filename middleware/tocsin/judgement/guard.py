"""The guard turns a call's messages into its verdict."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from tocsin.configuration.config import Config
from tocsin.judgement.batch_scorer import BatchScorer
from tocsin.judgement.call import Call, Read, StreamedCall
from tocsin.judgement.call_plan import CallPlan
from tocsin.judgement.call_reader import CallReader
from tocsin.judgement.lottery import Lottery
from tocsin.judgement.message_run import MessageRun
from tocsin.judgement.method_plans import guarded_methods, method_plans, sends_payloads
from tocsin.judgement.model import GuardedModel, guarded_models
from tocsin.judgement.reporting import VerdictReporter
from tocsin.judgement.run_reading import RunReader
from tocsin.judgement.shadow import by_candidates
from tocsin.judgement.sink import Sink, Sinks
from tocsin.protocols.method import Edit
from tocsin.protocols.rows import Family
from tocsin.state.opening import State
from tocsin.unscored import Unscored
from tocsin.verdict import Verdict

TRACE_KEY: Final = "traceparent"
NO_KEYS: Final[Mapping[str, str]] = {}
NO_EDITS: Final[Sequence[Edit]] = ()
NO_BUNDLE: Final = Unscored("no_bundle", "no model has a bundle")  # made once: most calls of such a guard pass for it
ALL_ROWS: Final = 1 << 60  # more than there are


class Guard:
    """Judges calls by the bundles of a configuration. Safe to use from several threads.

    Made by `Guard.open`. Every verdict goes to `sinks`; the `Sinks` of another guard are shared with it. `is_blocking`:
    judging may hold up an event loop for too long. `timed`: calls record when they began and the caller's span, for
    sinks that make spans. `lottery` draws calls of which a second opinion is asked. With `keep`, nothing is judged and
    no bundle is needed: each batch of one model is passed to `keep` instead.
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
        self._judges = keep is None
        self.sinks = sinks if isinstance(sinks, Sinks) else Sinks(sinks)
        self.lottery: Lottery | None = None
        self.state = state or State()
        self._reporter = VerdictReporter(self.sinks)
        self._scorer = BatchScorer(self.sinks, self._reporter, keep)
        self.reconfigure(config, models)

    def reconfigure(self, config: Config, models: Mapping[str, GuardedModel]) -> None:
        """Judge by these from here on. Calls that are being judged finish by the old ones."""
        self.config = config
        self.mode: str = config.mode
        self.max_message = int(config.max_message)
        self.models = dict(models)
        self._reporter.follow(config, self.models)
        self.state.keep([store for model in self.models.values() for store in model.stores])
        self.methods, self._of_method = guarded_methods(self.models.values())
        self._method_plans = method_plans(config, self.methods, self._of_method)
        self._edits = {
            name: [model.edits[name] for model in models if name in model.edits]
            for name, models in self._of_method.items()
        }
        self._draws = any(model.second_opinion is not None for model in config.models.values())
        self._keyless_plans: dict[str, CallPlan] = {}  # by method, of calls whose metadata say nothing to anybody
        keys = {key for model in self.models.values() for key in model.metadata_keys}
        keys |= {key for method in self.methods.values() for key in (method.model_key, method.version_key)}
        self._keys = sorted(keys - {""})
        self.score_keys = sorted({key for model in self.models.values() for key in model.score_keys})
        self._budgets = {
            name: max(config.budget(m.name, shares_sessions=m.shares_sessions) for m in models).total_seconds()
            for name, models in self._of_method.items()
        }
        self.is_blocking = any(model.is_blocking for model in self.models.values())
        self.shadows = any(model.shadow is not None for model in self.models.values())
        self._reader = CallReader(self.models, self._of_method, needs_bundle=self._judges)
        self.reads_responses = sends_payloads(config) or not self._reader.has_no_bundle  # whether anybody does
        self._runs = RunReader(self.models, self._of_method)
        self._takes_runs = not (self.shadows or sends_payloads(config)) and self._judges

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
        return self._draws or any(plan.wants_request for plan in self._method_plans.values())

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
        if keys or TRACE_KEY in metadata:
            return CallPlan(of_method, keys, metadata.get(TRACE_KEY, ""))
        plan = self._keyless_plans.get(method)
        if plan is None:
            plan = self._keyless_plans[method] = CallPlan(of_method, NO_KEYS, "")
        return plan

    def begin(self, plan: CallPlan, hint: str, origin: str) -> Call:
        """Make the call object of one RPC by its plan. `hint` names the model where the call does not, `origin` the
        connection. Nothing is judged yet.
        """
        call = plan.new_call(hint, origin, takes_runs=plan.may_run and self._takes_runs and self.sinks.take_runs)
        if self._draws and self.lottery is not None:
            self.lottery.draw(call)
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
        behind: set[StreamedCall] = set()  # streams of which a piece was postponed, so that others come after it
        reader, reporter = self._reader, self._reporter
        for call in calls:
            if call.parent is not None:
                in_pieces = True
            if room <= 0 or (behind and call.parent in behind):
                postponed.append((call, 0))
                continue
            if reader.has_no_bundle and call.fault is None and call.response is not None:
                call.model = reader.default_model
                reporter.pass_unscored(call, NO_BUNDLE)  # not raised: compiled, that costs more than all else of a call
                continue
            try:
                to_score = reader.read(call)
            except Unscored as why:
                self._pass_unread(call, why)
                continue
            except Exception as error:
                self._pass_unread(call, Unscored("undecodable", f"{type(error).__name__}: {error}"))
                continue
            if to_score is None:
                continue
            family, read = to_score
            rows = read[1]
            if rows > room:
                postponed.append((call, rows))
                if call.parent is not None:
                    behind.add(call.parent)
                continue
            room -= rows
            batch = batches.get(family)
            if batch is None:
                batches[family] = [read]
            else:
                batch.append(read)
        for family, batch in batches.items():
            self._scorer.score(family.model, family, batch, started)
        if in_pieces:
            reporter.report_pieces(calls, postponed)
        return postponed

    def read_run(self, run: MessageRun) -> list[Call]:
        """What to judge in the place of messages that came together: what of them was read together, and the others."""
        return self._runs.read(run)

    def shadow(self, calls: Sequence[Call]) -> None:
        """Score judged calls by the candidate bundles. Their verdicts have no effect on responses."""
        for call, pvalues in by_candidates(self.models, calls):
            self.sinks.shadowed(call, pvalues)

    def pass_without_bundle(self, call: Call) -> None:
        """Let a call pass that there is nothing to judge by, for guards that read no responses: at once, as it needs
        not wait for others to be judged with it.
        """
        call.model = self._reader.default_model
        self._reporter.pass_alone(call, NO_BUNDLE if call.fault is None else Unscored(*call.fault))
        call.forget()

    def give_up(self, call: Call, reason: str, detail: str) -> None:
        """Let a call pass unscored, for a reason that the position found."""
        call.model = call.model or self._reader.default_model
        self._forget_previous(call)
        self._reporter.pass_alone(call, Unscored(reason, detail))

    def late_verdict(self, call: Call) -> Verdict:
        """The verdict that callers see when the scoring budget is spent. The real one is counted when it arrives."""
        call.model = self.model_of(call)
        return Verdict(call.model, call.version, unscored="late", action=self._reporter.action_unscored(call))

    def acted(self, call: Call, action: str) -> None:
        """Report what was done to a call in enforce: one of `verdict.ACTIONS`, or `refused` when it failed closed."""
        self.sinks.acted(call, action)

    def fails_closed(self, call: Call) -> bool:
        """Whether a call that cannot be scored must not pass."""
        return self._reporter.fails_closed(call)

    def budget(self, call: Call) -> float:
        """How many seconds a call may wait for its verdict."""
        seconds = self._budgets.get(call.method)
        return self.config.scoring_budget.total_seconds() if seconds is None else seconds

    def model_of(self, call: Call) -> str:
        """The name of a call's model, as far as it can be known before the call is judged."""
        return self._reader.model_of(call)

    def edits(self, call: Call) -> Sequence[Edit]:
        """What to ask the model for besides, for each model that guards the call's method."""
        return self._edits.get(call.method, NO_EDITS)

    def on_call_closed(self, call: Call) -> None:
        """No more of a call comes. Where the call is a session, that session ends once all of it is judged."""
        if isinstance(call, StreamedCall) and not call.is_closed:
            call.is_closed = True
            if not call.pending:
                self._reporter.end_sessions(call)

    def end_silent_sessions(self) -> None:
        """End the sessions that have been silent for too long. A timer calls this, with or without traffic."""
        for model in list(self.models.values()):
            if model.scoring is not None:
                self._reporter.report_ended(model.name, model.scoring, model.scoring.judge.silent())

    def _pass_unread(self, call: Call, why: Unscored) -> None:
        """A call passes unscored whose signals could not be read."""
        self._forget_previous(call)
        self._reporter.pass_unscored(call, why)

    def _forget_previous(self, call: Call) -> None:
        model = self.models.get(call.model)
        if model is not None and model.previous is not None:
            model.forget_previous(call)
