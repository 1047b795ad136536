"""The promise of an opinion: its score is judged, counted and watched as that of a model of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from tocsin.configuration.config import Config
from tocsin.configuration.model import ModelConfig
from tocsin.configuration.second_opinion import opinion_model
from tocsin.errors import ConfigError
from tocsin.judgement.guard import Guard
from tocsin.judgement.model import GuardedModel
from tocsin.judgement.sink import Sinks
from tocsin.opinions.asking import DrawnCall
from tocsin.protocols.http.method import JsonMethod
from tocsin.protocols.method import EVALUATION_NAME
from tocsin.protocols.paths import METADATA, SignalPath
from tocsin.state.opening import State
from tocsin_calibration import Bundle

VERSION_KEY = "tocsin-version"
ROUTE = "POST /tocsin/opinion"  # of no port: opinions are judged as calls whose score is in their metadata
# Severities of what does not alarm; `disbelieved` is not judged, because judges do not agree.
NONE, UNPROMISED, UNSCORED, DISBELIEVED = "none", "unpromised", "unscored", "disbelieved"


def opinion_models(config: Config) -> dict[str, GuardedModel]:
    """A guarded model for each opinion that has a bundle, by the name under which it is counted.

    Raises BundleError, or ConfigError where a bundle does not judge this opinion's score.
    """
    models: dict[str, GuardedModel] = {}
    for model, settings in config.models.items():
        second = settings.second_opinion
        for opinion, opinion_settings in () if second is None else second.opinions.items():
            if opinion_settings.bundle is None:
                continue
            name = opinion_model(model, opinion)
            where = f"models.{model}.second_opinion.opinions.{opinion}.bundle: {opinion_settings.bundle}"
            bundle = Bundle.read(opinion_settings.bundle)
            promise = bundle.require_promise(opinion_settings.bundle)
            if dict(bundle.scorer.signals) != {opinion: 1}:
                read = ", ".join(bundle.scorer.signals)
                raise ConfigError(f"{where}: reads '{read}', not '{opinion}': make it with --score {opinion}")
            if promise.sessions is not None or promise.groups:
                raise ConfigError(f"{where}: promises for sessions or groups; an opinion's promise is for responses")
            guarded = ModelConfig(
                bundle=opinion_settings.bundle,
                signals={opinion: SignalPath(METADATA, opinion.lower())},
                restart=settings.restart,
                evidence=settings.evidence,
            )
            attributes = {EVALUATION_NAME: opinion}
            method = JsonMethod(ROUTE, version=f"metadata.{VERSION_KEY}", attributes=attributes)
            models[name] = GuardedModel(name, guarded, {ROUTE: method}, State())
    return models


class _UnreadBytes(bytes):
    """A response for events to carry. Its score is in the metadata, and its content need not be JSON."""

    document: ClassVar[dict[str, object]] = {}  # what JsonMethod takes for the decoded response


class OpinionJudge:
    """Judges scores by their promises, and reports them to `sinks` as those of models of their own."""

    def __init__(self, config: Config, models: Mapping[str, GuardedModel], sinks: Sinks) -> None:
        self._guard = Guard(_config_of(config, models), models, sinks, State())

    def follow(self, config: Config, models: Mapping[str, GuardedModel]) -> None:
        """Judge by these models from here on."""
        self._guard.reconfigure(_config_of(config, models), models)

    def severities(self, name: str) -> list[str]:
        """What the score of an opinion may be judged as."""
        model = self._guard.models.get(name)
        if model is None or model.scoring is None:
            return [UNPROMISED]
        return [*model.scoring.promise.alphas, NONE]

    def judge(self, name: str, score: float, about: DrawnCall, began: int) -> str:
        """The severity of the score of a call that was drawn at random; it counts as evidence. NONE where it does not
        alarm, UNPROMISED where the opinion has no promise, UNSCORED where it could not be judged. `began` is when the
        judge was asked, in nanoseconds of Unix time.
        """
        model = self._guard.models.get(name)
        if model is None:
            return UNPROMISED
        (signal,) = model.config.signals
        keys = {model.config.signals[signal].path: repr(score), VERSION_KEY: about.version}
        plan = self._guard.plan(ROUTE, keys)
        assert plan is not None
        call = self._guard.begin(plan, name, "")
        call.trace, call.traceparent, call.began = about.trace, about.traceparent, began
        call.request, call.response = about.request, _UnreadBytes(about.responses[-1])
        self._guard.judge([call])
        if call.verdict is None or call.verdict.unscored:
            return UNSCORED
        return call.verdict.severity or NONE

    def severity(self, name: str, score: float) -> str:
        """The same of a call that an alarm chose: it is compared with the thresholds, and is no evidence, because the
        promise is one for calls drawn at random.
        """
        model = self._guard.models.get(name)
        if model is None or model.scoring is None:
            return UNPROMISED
        (signal,) = model.config.signals
        scores = model.scoring.scorer.run({signal: np.array([[score]], np.float32)})
        return model.scoring.promise.judge(scores).severities[0] or NONE


def _config_of(config: Config, models: Mapping[str, GuardedModel]) -> Config:
    settings = {name: model.config for name, model in models.items()}
    return config.model_copy(update={"models": settings, "state": None, "mode": "observe"})
