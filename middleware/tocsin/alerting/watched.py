"""The inputs of rules: the promises of a configuration's bundles, and the options of the alerts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from tocsin.configuration.config import Config
from tocsin.configuration.model import ModelConfig
from tocsin.configuration.second_opinion import opinion_model
from tocsin.errors import ConfigError
from tocsin_calibration import Bundle, CalibrationFault, Promise

DELTA, RUN_LENGTH = 0.01, 1e6


@dataclass(frozen=True)
class WatchedModel:
    """A guarded model. `severities` are those of its promise, the most severe first. `fixed`: alarms come from the
    promise's own thresholds, so that there is a rate to test.
    """

    name: str
    severities: tuple[str, ...]
    fixed: bool
    run_length: bool
    shadowed: bool
    shares_sessions: bool = False  # by the Redis of `state`
    candidate_carried: int | None = None  # responses that carry the candidate's promise, where it can be read


@dataclass(frozen=True)
class RuleOptions:
    """Options of the alerts.

    `delta` is the probability that any promise alert, or any drift alert, ever fires on traffic that keeps the promise,
    from the start of one process; `run_length` the responses between two false alerts where evidence is configured so.
    `by` are further labels that distinguish deployments, such as namespace. `upstream_rate` is PromQL for the requests
    a second that the model server reports. `texts_query`: whether templates of annotations may ask for other series, as
    those of Prometheus may and those of Grafana may not.
    """

    delta: float = DELTA
    run_length: float = RUN_LENGTH
    max_age: timedelta = timedelta(days=30)
    unscored: float = 0.05
    by: Sequence[str] = ()
    upstream_rate: str = ""
    texts_query: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.delta < 1:
            raise ConfigError(f"--delta: a probability lies between 0 and 1, not {self.delta:g}")
        if not self.run_length > 1:
            raise ConfigError(f"--run-length: more than one response, not {self.run_length:g}")
        if not 0 < self.unscored < 1:
            raise ConfigError(f"--unscored: a share lies between 0 and 1, not {self.unscored:g}")
        for label in self.by:
            if not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", label):
                raise ConfigError(f"--by: '{label}' is no label's name")

    def labels(self, *names: str) -> str:
        """These labels and those that distinguish deployments, as PromQL's `by` takes them."""
        return ", ".join([*self.by, *names])

    @property
    def grouping(self) -> str:
        """PromQL's `by` clause of what is counted for each deployment, nothing where no label tells them apart."""
        return f" by ({self.labels()})" if self.by else ""

    @property
    def subject(self) -> str:
        """The model that an alert is about and its deployment, as a template of annotations."""
        return "{{ $labels.model }}" + self.deployment(" (", ")")

    def deployment(self, before: str = "", after: str = ": ") -> str:
        """The deployment that an alert is about, as a template of annotations; empty where no label names it."""
        return "".join(
            f"{{{{ with $labels.{label} }}}}{before}{label} {{{{ . }}}}{after}{{{{ end }}}}" for label in self.by
        )

    def lookup(self, series: str, alarm: str) -> str:
        """The value of a recorded series for the alert's own promise, as a share, as a template of annotations; `alarm`
        is the label of its severity.
        """
        labels = [*self.by, "model", alarm]
        matchers = ",".join(f"{label}='%s'" for label in labels)
        values = " ".join(f"$labels.{label}" for label in labels)
        query = f'{{{{ with printf "{series}{{{matchers}}}" {values} | query }}}}'
        return query + "{{ . | first | value | humanizePercentage }}{{ else }}an unknown share{{ end }}"


def watched(config: Config) -> list[WatchedModel]:
    """The models of a configuration that have a bundle, and the opinions that have one, each as a model of its own.
    Raises ConfigError where none has, BundleError.
    """
    result = []
    for name, model in config.models.items():
        result += _watched_opinions(name, model)
        if model.bundle is None:
            continue
        promise = Bundle.read(model.bundle).require_promise(model.bundle)
        entry = watched_model(name, promise, model)
        hops = promise.sessions is not None and config.state is not None and model.sessions_hop
        entry = replace(entry, shares_sessions=hops)
        result.append(entry if model.shadow is None else replace(entry, candidate_carried=_carried(model.shadow)))
    if not result:
        raise ConfigError("models: none has a bundle, so there is no promise to alert on")
    return result


def _watched_opinions(name: str, model: ModelConfig) -> list[WatchedModel]:
    """A model's opinions that have bundles of their own, as models."""
    second = model.second_opinion
    alike = model.model_copy(update={"adapt": None, "discoveries": None, "shadow": None})
    return [
        watched_model(
            opinion_model(name, opinion), Bundle.read(settings.bundle).require_promise(settings.bundle), alike
        )
        for opinion, settings in (second.opinions.items() if second is not None else ())
        if settings.bundle is not None
    ]


def watched_model(name: str, promise: Promise, model: ModelConfig) -> WatchedModel:
    """One model with its promise."""
    fixed = model.adapt is None and model.discoveries is None and not promise.is_per_step
    return WatchedModel(name, tuple(promise.alphas), fixed, model.evidence == "run_length", model.shadow is not None)


def _carried(path: Path) -> int | None:
    try:
        promise = Bundle.read(path).promise
    except CalibrationFault:
        return None
    return None if promise is None else min(law.n for law in promise.laws.values())


def matching(models: Sequence[WatchedModel], every: Sequence[WatchedModel]) -> str:
    """The PromQL matcher for some of the models; empty for all of them, as more may come."""
    if len(models) == len(every):
        return ""
    return 'model=~"' + "|".join(re.escape(model.name).replace("\\", "\\\\") for model in models) + '"'
