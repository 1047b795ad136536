"""The configuration: one YAML file, validated, with overrides from the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ByteSize, ConfigDict, Field, ValidationError, model_validator

from tocsin.configuration.environment import Override, overrides
from tocsin.configuration.events import EventsConfig
from tocsin.configuration.fields import CONNECTION, Address, AddressField, Duration
from tocsin.configuration.listener import Limits, Listener, TlsConfig, UpstreamTls
from tocsin.configuration.model import ModelConfig
from tocsin.configuration.ports import check_ports
from tocsin.configuration.problems import joined_problems, no_such_setting
from tocsin.configuration.record import RecordConfig
from tocsin.configuration.second_opinion import opinion_model
from tocsin.configuration.state import ROUND_TRIPS, TIMEOUT, StateConfig
from tocsin.configuration.telemetry import TelemetryConfig
from tocsin.errors import ConfigError
from tocsin.protocols.protocol import is_http, presets
from tocsin.protocols.settings import ProtocolConfig


class Config(BaseModel):
    """A relay and the models it guards."""

    model_config = ConfigDict(extra="forbid", defer_build=True, validate_default=True)

    listen: AddressField = Field(
        Address("0.0.0.0", 8001), description="Where callers connect: HOST:PORT or unix:/PATH."
    )
    upstream: AddressField = Field(Address("127.0.0.1", 8081), description="The model server: HOST:PORT or unix:/PATH.")
    tls: TlsConfig | None = Field(None, description="The certificate that callers see; null: they come without TLS.")
    upstream_tls: UpstreamTls | None = Field(None, description="TLS towards the model server; null: none.")
    listeners: list[Listener] = Field(
        [], description="Further ports and the model servers behind them, each with `listen`, `upstream`, `tls`, ..."
    )
    ext_proc: AddressField | None = Field(
        None,
        description="Where Envoy's ext_proc filter connects: HOST:PORT or unix:/PATH. There is no relay then, unless "
        "`listen` is given too; null: none.",
    )
    ext_proc_tls: TlsConfig | None = Field(
        None, description="The certificate that Envoy sees on `ext_proc`; null: it comes without TLS."
    )
    ext_proc_metadata: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_.-]+$",
        description="The namespace of Envoy's dynamic metadata that gets each verdict, for access logs and other "
        "filters; null: none.",
    )
    mode: Literal["observe", "annotate", "enforce"] = Field(
        "observe",
        description="observe never touches a response; annotate adds the verdict to the trailing metadata; enforce "
        "also holds responses until they are judged, and does what `on_alarm` says.",
    )
    stream_verdicts: Literal["comment", "event", "none"] = Field(
        "comment",
        description="How a stream of server-sent events carries the verdict in annotate and enforce: by a comment "
        "before its last event, by an event `tocsin-verdict`, or not at all.",
    )
    fail: Literal["open", "closed"] = Field(
        "open", description="In enforce, whether responses that cannot be scored pass (open) or are refused (closed)."
    )
    unguarded: Literal["pass", "refuse"] = Field(
        "pass",
        description="In enforce, whether calls of methods that no model has pass, or are refused with "
        "PERMISSION_DENIED; health and reflection always pass.",
    )
    unguarded_allow: list[Annotated[str, Field(pattern=r"^(/[^/\s*]+)+(/\*)?$")]] = Field(
        [],
        description="Methods and paths that pass with `unguarded: refuse` too: /SERVICE/METHOD, or /SERVICE/* for all "
        "that begins so.",
    )
    protocols: dict[str, ProtocolConfig] = Field({}, description="Protocols of your own, beside the presets.")
    models: dict[str, ModelConfig] = Field(description="The guarded models by name.", min_length=1)
    metrics: AddressField | None = Field(
        Address("127.0.0.1", 9464),
        description="Where /metrics, /healthz and /readyz are served; null turns them off.",
    )
    page: bool = Field(True, description="Whether / on the metrics port shows a page for people.")
    events: EventsConfig | None = Field(
        None, description="Alarms as events, for people and programs: a webhook, an Alertmanager, Kafka, a file."
    )
    opentelemetry: TelemetryConfig | None = Field(
        None, description="Spans of judged calls, and metrics, to an OTLP receiver; needs the extra `otel`."
    )
    record: RecordConfig | None = Field(
        None, description="A random sample of judged responses, written for calibration; needs the extra `record`."
    )
    state: StateConfig | None = Field(
        None, description="A Redis that remembers sessions for all replicas; null: each process by itself."
    )
    admin: AddressField | None = Field(
        Address("127.0.0.1", 9465), description="Where the gRPC health service is served; null turns it off."
    )
    admin_token: Path | None = Field(
        None, description="A file with the token that callers of the admin port must show; health needs none."
    )
    admin_tls: TlsConfig | None = Field(None, description="The certificate of the admin port; null: plain text.")
    scoring_budget: Duration = Field(
        timedelta(milliseconds=5),
        description="How long a response waits for its verdict; a later one is counted as late. Unless it is set, "
        "models whose sessions are in the Redis of `state` have four times state.timeout besides.",
    )
    max_message: ByteSize = Field(
        ByteSize(32 << 20), description="Larger messages pass unscored.", ge=1024, le=(1 << 31) - 1
    )
    max_memory: ByteSize = Field(
        ByteSize(256 << 20),
        description="Bytes that may wait in the relay at any time, of all connections together; beyond it messages "
        "pass unscored, and the connection that keeps most is cut off.",
    )
    connect_timeout: Duration = Field(timedelta(seconds=5), description="How long a connection upstream may take.")
    upstream_health: Literal["ignore", "ready", "listen"] = Field(
        "ignore",
        description="What follows whether the upstream takes connections: nothing (ignore), /readyz and gRPC health "
        "(ready), or also the port, which refuses connections meanwhile (listen).",
    )
    drain: Duration = Field(timedelta(seconds=30), description="How long calls in flight may finish after SIGTERM.")
    drain_delay: Duration = Field(
        timedelta(seconds=5),
        description="How long after SIGTERM new connections and calls are still taken, while /readyz says no; then "
        "draining begins.",
    )
    limits: Limits = Field(Limits.model_construct(), description="What callers may use of the relay.")
    accept_verdicts: bool = Field(
        False,
        description="Take the verdict that a Tocsin behind this one made, instead of scoring again: judging waits for "
        "the trailers. Otherwise verdicts from behind are removed.",
    )
    workers: int = Field(1, ge=1, le=64, description="Processes that share the port; metrics are those of all.")
    reload_certificates: Duration = Field(
        timedelta(seconds=30), description="How often certificate files are looked at for changes."
    )
    threads: int = Field(1, ge=1, le=64, description="Threads that one run of the scorer may use.")

    @classmethod
    def load(cls, path: Path | str) -> Config:
        """Read the file, apply overrides from the environment (TOCSIN_UPSTREAM, TOCSIN_MODELS__DIGITS__BUNDLE), and
        validate.

        Raises ConfigError naming the file, the path inside it, and what was expected.
        """
        from tocsin.configuration.reading import read_settings  # by yaml, which takes a while to import

        path = Path(path)
        content = read_settings(path)
        overriding, single = overrides(os.environ, content, cls.model_fields)
        try:
            config = cls(**_merge(content, overriding))
        except ValidationError as error:
            said = (_describe(path, problem, single) for problem in joined_problems(error.errors()))
            raise ConfigError("\n".join(said)) from None
        except RecursionError:
            raise ConfigError(f"{path}: is nested too deeply") from None
        config._resolve(path.parent)
        return config

    @property
    def every_listener(self) -> list[Listener]:
        """The ports for callers, each with its model server. The top-level one comes first, unless only Envoy's filter
        is served.
        """
        if self.ext_proc is not None and "listen" not in self.model_fields_set:
            return list(self.listeners)
        first = Listener(listen=self.listen, upstream=self.upstream, tls=self.tls, upstream_tls=self.upstream_tls)
        return [first, *self.listeners]

    @property
    def round_trip(self) -> timedelta:
        """How long a round trip to the Redis of `state` may take: as configured, else what the budgets leave."""
        if self.state is not None and self.state.timeout is not None:
            return self.state.timeout
        budgets = [self._budget_set(model) for model in self.models.values() if model.session and model.sessions_hop]
        return min([TIMEOUT, *(budget / ROUND_TRIPS for budget in budgets if budget is not None)])

    def is_http(self, model: ModelConfig) -> bool:
        """Whether a model is served over HTTP."""
        configured = self.protocols.get(model.protocol)
        return is_http(model.protocol) if configured is None else configured.is_http

    def budget(self, model: str, *, shares_sessions: bool) -> timedelta:
        """How long a response of a model may wait for its verdict. Where the model `shares_sessions` through Redis and
        no budget is configured, the default includes the round trips.
        """
        configured = self._budget_set(self.models[model])
        if configured is not None:
            return configured
        return self.scoring_budget + (ROUND_TRIPS * self.round_trip if shares_sessions else timedelta())

    def _budget_set(self, model: ModelConfig) -> timedelta | None:
        """The scoring budget that the file sets for a model; None where it sets none."""
        return model.scoring_budget or (self.scoring_budget if "scoring_budget" in self.model_fields_set else None)

    @model_validator(mode="after")
    def _check_protocols(self) -> Config:
        """Protocols, models and opinions that other settings name exist, and fit the ways that responses come."""
        for name, model in self.models.items():
            if model.protocol not in self.protocols and model.protocol not in presets():
                names = ", ".join([*presets(), *self.protocols])
                raise ValueError(
                    f"models.{name}.protocol: there is no protocol '{model.protocol}' (there are: {names})"
                )
            for opinion in model.second_opinion.opinions if model.second_opinion is not None else ():
                if (counted_as := opinion_model(name, opinion)) in self.models:
                    raise ValueError(
                        f"models.{counted_as}: is the name under which the opinion '{opinion}' of '{name}' is counted: "
                        f"choose another"
                    )
        for listener in self.listeners:
            if listener.model and listener.model not in self.models:
                raise ValueError(f"listeners: there is no model '{listener.model}'")
        if self.ext_proc is not None:
            for name, model in self.models.items():
                if model.session == CONNECTION:
                    raise ValueError(
                        f"models.{name}.session: an Envoy's connection to ext_proc is not a caller's: name a key, such "
                        f"as metadata.x-session"
                    )
        if self.workers > 1 and self.events is not None and self.events.evidence:
            raise ValueError("events.evidence: is found in one process alone: leave it out with `workers`")
        check_ports(self.every_listener, {"metrics": self.metrics, "admin": self.admin, "ext_proc": self.ext_proc})
        return self

    def _resolve(self, folder: Path) -> None:
        """Make the paths of files relative to the configuration's folder."""
        for model in self.models.values():
            model.bundle = model.bundle and folder / model.bundle
            model.shadow = model.shadow and folder / model.shadow
            if model.fallback is not None and model.fallback.tls is not None:
                model.fallback.tls.resolve(folder)
            if model.second_opinion is not None:
                model.second_opinion.resolve(folder)
        for protocol in self.protocols.values():
            protocol.descriptors = protocol.descriptors and str(folder / protocol.descriptors)
        if self.events is not None:
            self.events.resolve(folder)
        if self.opentelemetry is not None:
            self.opentelemetry.resolve(folder)
        if self.record is not None:
            self.record.resolve(folder)
        if self.state is not None:
            self.state.resolve(folder)
        self.admin_token = self.admin_token and folder / self.admin_token
        for served in (self.admin_tls, self.ext_proc_tls):
            if served is not None:
                served.resolve(folder)
        for listener in self.every_listener:
            for tls in (listener.tls, listener.upstream_tls):
                if tls is not None:
                    tls.resolve(folder)


def _merge(under: Any, overriding: Any) -> Any:
    if isinstance(under, Mapping) and isinstance(overriding, Mapping):
        return {**under, **{key: _merge(under.get(key), value) for key, value in overriding.items()}}
    return overriding


def _describe(path: Path, problem: Any, single: Sequence[Override]) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    place = tuple(str(part) for part in problem["loc"])
    by = next((override.variable for override in single if place[: len(override.place)] == override.place), "")
    what = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        what = no_such_setting(place, Config.model_json_schema())
    if problem["type"] == "value_error" and (named := re.match(r"([a-z_]+(?:\.\w+)*): (.*)", what, re.DOTALL)):
        where, what = ".".join(part for part in (where, named[1]) if part), named[2]
    if problem["type"] == "missing":
        what = "is required"
    return f"{path}: {where}: {what}" + (f" (the environment's {by} says so)" if by else "")
