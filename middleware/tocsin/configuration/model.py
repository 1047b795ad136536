"""Settings of one guarded model."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tocsin.configuration.actions import AbstainConfig, BlockConfig, FallbackConfig, ReactionField, RetryConfig
from tocsin.configuration.fields import CONNECTION, STREAM, Duration, GroupField, SessionField, SignalField
from tocsin.configuration.second_opinion import SecondOpinionConfig
from tocsin.protocols.settings import Judged


class RiskConfig(BaseModel):
    """What answers are worth, in one unit of value of your own: points, cents, minutes."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    right_earns: float = Field(1.0, ge=0, description="What a right answer that is served earns.")
    wrong_costs: float = Field(1.0, ge=0, description="What a wrong answer that is served costs.")
    review_costs: float | None = Field(
        None, ge=0, description="What it costs when a person reviews a flagged answer; null: no review."
    )

    @model_validator(mode="after")
    def _worth_something(self) -> RiskConfig:
        if self.right_earns + self.wrong_costs == 0:
            raise ValueError("right_earns and wrong_costs cannot both be 0: then no decision matters")
        return self


class AdaptConfig(BaseModel):
    """Levels that follow feedback, so that the false-alarm rate tends to alpha under drift."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    method: Literal["aci", "dtaci", "pid"] = Field(
        "dtaci", description="How levels follow: ACI, DtACI or conformal PID."
    )
    step: float = Field(0.01, gt=0, description="How far one label moves the level (aci), or the threshold (pid).")
    remembered: int = Field(100_000, ge=1, description="Responses that may wait for their label.")


class DiscoveryConfig(BaseModel):
    """Alarms of which at most a share is false, over the whole stream, instead of a share of the responses alarming."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    method: Literal["lord", "saffron", "addis"] = Field("addis", description="LORD++, SAFFRON or ADDIS.")
    false_share: float = Field(0.1, gt=0, lt=1, description="The share of alarms that may be false (FDR).")


class ModelConfig(BaseModel):
    """One guarded model."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    bundle: Path | None = Field(
        None,
        description="The bundle that scores this model's responses, relative to this file. Without one, responses "
        "pass and count as unscored.",
    )
    protocol: str = Field("oip", description="The protocol it is served by: a preset, or one of `protocols`.")
    signals: dict[str, SignalField] = Field(
        {},
        description="Where each signal stands: a signal's name, and request.inputs.NAME or response.outputs.NAME, or "
        "the path of a field; of a score in metadata, metadata.KEY of the request, initial_metadata.KEY or "
        "trailing_metadata.KEY of the response. Presets know some places by themselves.",
    )
    judge: Judged | None = Field(
        None,
        description="Of a stream: message judges each, a number so many messages together, end the whole; null: as the "
        "protocol says.",
    )
    in_turn: bool = Field(
        False,
        description="Of a stream of requests (ModelStreamInfer): each has exactly one response, so that responses to "
        "requests without an id, or with the same id, are matched by their order.",
    )
    batched: bool | dict[str, bool] | None = Field(
        None,
        description="Whether the first axis of tensors is one of responses, for all signals or by signal; null: as the "
        "width that detectors were fitted on says, and while recording the shape and the signal's name.",
    )
    ask: bool | int = Field(
        False,
        description="Ask the model server for signals that callers did not ask for, and take them out again; a number: "
        "so many log-probabilities a token.",
        ge=0,
        le=100,
    )
    session: SessionField | None = Field(
        None,
        description="What names a response's session: metadata.KEY, request.PATH, stream or connection.",
    )
    session_idle: Duration = Field(
        timedelta(minutes=10), description="A session that has been silent for so long has ended."
    )
    max_sessions: int = Field(
        100_000, ge=1, description="Sessions remembered at a time; the longest silent ends when there are more."
    )
    group: GroupField | None = Field(
        None,
        description="What names a response's group: metadata.KEY, request.PATH or version, for bundles with a promise "
        "a group.",
    )
    on_alarm: dict[str, ReactionField] = Field(
        {}, description="What to do by severity, by default flag. Done in enforce, reported in annotate."
    )
    fail: Literal["open", "closed"] | None = Field(
        None, description="In enforce, whether responses that cannot be scored pass; null: as `fail` above says."
    )
    scoring_budget: Duration | None = Field(
        None, description="How long a response may wait for its verdict; null: as `scoring_budget` above says."
    )
    abstain: AbstainConfig = Field(
        AbstainConfig.model_construct(), description="What callers get in place of a withheld answer."
    )
    block: BlockConfig = Field(BlockConfig.model_construct(), description="The status of blocked calls.")
    fallback: FallbackConfig | None = Field(None, description="The model that `fallback` asks.")
    retry: RetryConfig | None = Field(None, description="How often `retry` asks again.")
    shadow: Path | None = Field(
        None, description="A candidate bundle that is scored beside the live one, counted, and never acts."
    )
    risk: RiskConfig | None = Field(
        None,
        description="Values and costs of answers; turns serve, flag or abstain on, for bundles that know correctness.",
    )
    adapt: AdaptConfig | None = Field(None, description="Levels that follow feedback; off unless set.")
    discoveries: DiscoveryConfig | None = Field(
        None, description="Bound the share of false alarms among alarms; off unless set."
    )
    second_opinion: SecondOpinionConfig | None = Field(
        None, description="What a judge model thinks of a sample of answers, off the response's path; off unless set."
    )
    smoothed: bool = Field(
        False,
        description="P-values in verdicts are smoothed: exactly uniform on safe traffic, also with ties. The random "
        "number is derived from the verdict's id.",
    )
    restart: int = Field(
        1_000, ge=1, description="Evidence against the promise starts a new window after so many responses."
    )
    evidence: Literal["windows", "run_length"] = Field(
        "windows",
        description="windows: evidence that may never raise a false alert; run_length: an e-detector, sooner at late "
        "changes, whose value exceeds log(N) by chance once in N responses on average at most.",
    )

    @property
    def sessions_hop(self) -> bool:
        """Whether the calls of a session may reach several processes, so that a shared Redis has to remember it."""
        return self.session not in (STREAM, CONNECTION)

    @model_validator(mode="after")
    def _one_way_to_alarm(self) -> ModelConfig:
        if self.adapt is not None and self.discoveries is not None:
            raise ValueError("adapt and discoveries both say when to alarm: choose one")
        return self

    @model_validator(mode="after")
    def _batched_names_signals(self) -> ModelConfig:
        strange = [name for name in self.batched if name not in self.signals] if isinstance(self.batched, dict) else []
        if strange and self.protocol in ("oip", "oip_http"):
            raise ValueError(f"batched: there is no signal '{strange[0]}' (there are: {', '.join(self.signals)})")
        return self

    @model_validator(mode="after")
    def _can_react(self) -> ModelConfig:
        if self.protocol in ("oip", "oip_http") and not self.signals:
            raise ValueError("signals: is required: name the tensor of each signal")
        wanted = {reaction.action for reaction in self.on_alarm.values()}
        wanted |= {self.retry.otherwise} if self.retry is not None else set()
        for name in ("fallback", "retry"):
            if name in wanted and getattr(self, name) is None:
                raise ValueError(f"{name}: is required, for it is what is to be done")
        return self
