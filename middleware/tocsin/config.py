"""The configuration: one YAML file, validated, with overrides from the environment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import yaml
from pydantic import BaseModel as PydanticModel
from pydantic import (
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    WithJsonSchema,
)
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, SettingsConfigDict

from tocsin.errors import ConfigError

PREFIX = "TOCSIN_"
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(us|ms|s|m|h)\s*$")
_SIGNAL = re.compile(r"^(request\.inputs|response\.outputs)\.(.+)$")


class Address(NamedTuple):
    """Where to listen or connect: a host and port, or the path of a Unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class SignalPath(NamedTuple):
    """Where a signal stands in a call: the side, `request` or `response`, and the tensor's name."""

    side: str
    tensor: str

    def __str__(self) -> str:
        return f"{self.side}.{'inputs' if self.side == 'request' else 'outputs'}.{self.tensor}"


def _address(value: Any) -> Address:
    if isinstance(value, Address):
        return value
    text = str(value)
    if text.startswith("unix:") and len(text) > 5:
        return Address(path=text[5:])
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535 or not host:
        raise ValueError(f"expected HOST:PORT or unix:/PATH, not '{text}'")
    return Address(host.strip("[]"), int(port))


def _seconds(value: Any) -> timedelta:
    if isinstance(value, timedelta):
        return value
    match = _DURATION.match(str(value))
    if not match:
        raise ValueError(f"expected a time with its unit, such as 5ms or 30s, not '{value}'")
    return timedelta(seconds=float(match[1]) * _UNITS[match[2]])


def _signal(value: Any) -> SignalPath:
    if isinstance(value, SignalPath):
        return value
    match = _SIGNAL.match(str(value))
    if not match:
        raise ValueError(f"expected request.inputs.NAME or response.outputs.NAME, not '{value}'")
    return SignalPath(match[1].partition(".")[0], match[2])


def _session(value: Any) -> str:
    side, _, key = str(value).partition(".")
    if side != "metadata" or not re.fullmatch(r"[0-9a-z_.-]+", key):
        raise ValueError(f"expected metadata.KEY with a lower-case key, not '{value}'")
    return f"metadata.{key}"


_TEXT = PlainSerializer(str, return_type=str)
AddressField = Annotated[
    Address,
    NoDecode,
    BeforeValidator(_address),
    _TEXT,
    WithJsonSchema({"type": "string", "examples": ["0.0.0.0:8001"]}),
]
Duration = Annotated[
    timedelta,
    BeforeValidator(_seconds),
    PlainSerializer(lambda d: f"{d.total_seconds():g}s", return_type=str),
    WithJsonSchema({"type": "string", "examples": ["5ms", "30s"]}),
]
SignalField = Annotated[
    SignalPath,
    BeforeValidator(_signal),
    _TEXT,
    WithJsonSchema({"type": "string", "examples": ["response.outputs.predict_proba"]}),
]
SessionField = Annotated[str, BeforeValidator(_session)]


class ModelConfig(PydanticModel):
    """One guarded model."""

    model_config = ConfigDict(extra="forbid")

    bundle: Path | None = Field(
        None,
        description="The bundle that scores this model's responses, relative to this file. Without one, responses "
        "pass and count as unscored.",
    )
    signals: dict[str, SignalField] = Field(
        description="Where each signal stands: a signal's name, and request.inputs.NAME or response.outputs.NAME.",
        min_length=1,
    )
    session: SessionField | None = Field(
        None, description="The metadata key that tells which responses belong together, as metadata.KEY."
    )


class Config(BaseSettings):
    """A relay and the models it guards."""

    model_config = SettingsConfigDict(extra="forbid", env_prefix=PREFIX, env_nested_delimiter="__")

    listen: AddressField = Field(
        Address("0.0.0.0", 8001), description="Where callers connect: HOST:PORT or unix:/PATH."
    )
    upstream: AddressField = Field(Address("127.0.0.1", 8081), description="The model server: HOST:PORT or unix:/PATH.")
    mode: Literal["observe", "annotate"] = Field(
        "observe",
        description="observe never touches a response; annotate adds the verdict to the trailing metadata.",
    )
    models: dict[str, ModelConfig] = Field(description="The guarded models by name.", min_length=1)
    metrics: AddressField | None = Field(
        Address("127.0.0.1", 9464),
        description="Where /metrics, /healthz and /readyz are served; null turns them off.",
    )
    admin: AddressField | None = Field(
        Address("127.0.0.1", 9465), description="Where the gRPC health service is served; null turns it off."
    )
    scoring_budget: Duration = Field(
        timedelta(milliseconds=5),
        description="How long trailers wait for a verdict in annotate; a later one is counted as late.",
    )
    max_message: ByteSize = Field(
        ByteSize(32 << 20), description="Larger messages pass unscored.", ge=1024, le=(1 << 31) - 1
    )
    max_memory: ByteSize = Field(
        ByteSize(256 << 20),
        description="Bytes of unfinished messages kept at any time; beyond it they pass unscored.",
    )
    connect_timeout: Duration = Field(timedelta(seconds=5), description="How long a connection upstream may take.")
    drain: Duration = Field(timedelta(seconds=30), description="How long calls in flight may finish after SIGTERM.")
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
        for model in config.models.values():
            if model.bundle is not None:
                model.bundle = path.parent / model.bundle
        return config


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
    if problem["type"] == "missing":
        what = "is required"
    return f"{path}: {where}: {what}"
