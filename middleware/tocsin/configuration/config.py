"""The configuration: one YAML file, validated, with overrides from the environment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ByteSize, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

from tocsin.configuration.events import EventsConfig
from tocsin.configuration.fields import Address, AddressField, Duration
from tocsin.configuration.listener import Limits, Listener, TlsConfig, UpstreamTls
from tocsin.configuration.model import ModelConfig
from tocsin.configuration.state import StateConfig
from tocsin.configuration.telemetry import TelemetryConfig
from tocsin.errors import ConfigError
from tocsin.protocols.protocol import ProtocolConfig, presets

PREFIX = "TOCSIN_"


class Config(BaseSettings):
    """A relay and the models it guards."""

    model_config = SettingsConfigDict(extra="forbid", env_prefix=PREFIX, env_nested_delimiter="__")

    listen: AddressField = Field(
        Address("0.0.0.0", 8001), description="Where callers connect: HOST:PORT or unix:/PATH."
    )
    upstream: AddressField = Field(Address("127.0.0.1", 8081), description="The model server: HOST:PORT or unix:/PATH.")
    tls: TlsConfig | None = Field(None, description="The certificate that callers see; null: they come without TLS.")
    upstream_tls: UpstreamTls | None = Field(None, description="TLS towards the model server; null: none.")
    listeners: list[Listener] = Field(
        [], description="Further ports and the model servers behind them, each with `listen`, `upstream`, `tls`, ..."
    )
    mode: Literal["observe", "annotate", "enforce"] = Field(
        "observe",
        description="observe never touches a response; annotate adds the verdict to the trailing metadata; enforce "
        "also holds responses until they are judged, and does what `on_alarm` says.",
    )
    fail: Literal["open", "closed"] = Field(
        "open", description="In enforce, whether responses that cannot be scored pass (open) or are refused (closed)."
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
        description="How long a response waits for its verdict; a later one is counted as late.",
    )
    max_message: ByteSize = Field(
        ByteSize(32 << 20), description="Larger messages pass unscored.", ge=1024, le=(1 << 31) - 1
    )
    max_memory: ByteSize = Field(
        ByteSize(256 << 20),
        description="Bytes that may wait in the relay at any time, of all connections together; beyond it messages pass "
        "unscored, and the connection that keeps most is cut off.",
    )
    connect_timeout: Duration = Field(timedelta(seconds=5), description="How long a connection upstream may take.")
    drain: Duration = Field(timedelta(seconds=30), description="How long calls in flight may finish after SIGTERM.")
    limits: Limits = Field(Limits(), description="What callers may use of the relay.")
    accept_verdicts: bool = Field(
        False,
        description="Take the verdict that a Tocsin behind this one made, instead of scoring again: judging waits for "
        "the trailers.",
    )
    workers: int = Field(1, ge=1, le=64, description="Processes that share the port; metrics are those of all.")
    reload_certificates: Duration = Field(
        timedelta(seconds=30), description="How often certificate files are looked at for changes."
    )
    threads: int = Field(1, ge=1, le=64, description="Threads that one run of the scorer may use.")

    @classmethod
    def settings_customise_sources(cls, *_: Any, **sources: Any) -> tuple[Any, ...]:
        """Only what `load` hands over: it has merged file and environment."""
        return (sources["init_settings"],)

    @classmethod
    def load(cls, path: Path | str) -> Config:
        """Read the file, lay the environment over it (TOCSIN_UPSTREAM, TOCSIN_MODELS__DIGITS__BUNDLE), validate.

        Raises ConfigError naming the file, the path inside it, and what was expected.
        """
        path = Path(path)
        content = _read(path)
        overrides = EnvSettingsSource(cls, env_prefix=PREFIX, env_nested_delimiter="__")()
        try:
            config = cls(**_merge(content, overrides))
        except ValidationError as error:
            raise ConfigError("\n".join(_told(path, problem) for problem in error.errors())) from None
        config._resolve(path.parent)
        return config

    @property
    def every_listener(self) -> list[Listener]:
        """Where callers connect, and the model server behind each: the first of them told on top."""
        first = Listener(listen=self.listen, upstream=self.upstream, tls=self.tls, upstream_tls=self.upstream_tls)
        return [first, *self.listeners]

    @model_validator(mode="after")
    def _known(self) -> Config:
        for name, model in self.models.items():
            if model.protocol not in self.protocols and model.protocol not in presets():
                told = ", ".join([*presets(), *self.protocols])
                raise ValueError(f"models.{name}.protocol: there is no protocol '{model.protocol}' (there are: {told})")
        for listener in self.listeners:
            if listener.model and listener.model not in self.models:
                raise ValueError(f"listeners: there is no model '{listener.model}'")
        return self

    def _resolve(self, folder: Path) -> None:
        """Make the paths of files relative to the configuration's folder."""
        for model in self.models.values():
            model.bundle = model.bundle and folder / model.bundle
            model.shadow = model.shadow and folder / model.shadow
            if model.fallback is not None and model.fallback.tls is not None:
                model.fallback.tls.resolve(folder)
        for protocol in self.protocols.values():
            protocol.descriptors = protocol.descriptors and str(folder / protocol.descriptors)
        if self.events is not None:
            self.events.resolve(folder)
        if self.opentelemetry is not None:
            self.opentelemetry.resolve(folder)
        if self.state is not None:
            self.state.resolve(folder)
        self.admin_token = self.admin_token and folder / self.admin_token
        if self.admin_tls is not None:
            self.admin_tls.resolve(folder)
        for listener in self.every_listener:
            for tls in (listener.tls, listener.upstream_tls):
                if tls is not None:
                    tls.resolve(folder)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        told = " ".join(str(error).split())
        raise ConfigError(f"{path}: is not YAML ({told})") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must hold settings by name (listen, upstream, models, ...)")
    strange = [name for name in content if not isinstance(name, str)]
    if strange:
        raise ConfigError(f"{path}: {strange[0]!r}: there is no such setting; `tocsin config schema` lists them")
    return content


def _merge(under: Any, over: Any) -> Any:
    if isinstance(under, Mapping) and isinstance(over, Mapping):
        return {**under, **{key: _merge(under.get(key), value) for key, value in over.items()}}
    return over


def _told(path: Path, problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    what = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        what = "there is no such setting; `tocsin config schema` lists them"
    if problem["type"] == "value_error" and (named := re.match(r"([a-z_]+(?:\.[a-z_]+)*): (.*)", what, re.DOTALL)):
        where, what = ".".join(part for part in (where, named[1]) if part), named[2]
    if problem["type"] == "missing":
        what = "is required"
    return f"{path}: {where}: {what}"
