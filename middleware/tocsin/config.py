"""The configuration: one YAML file, validated, with overrides from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ByteSize, Field, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

from tocsin.config_fields import Address, AddressField, Duration
from tocsin.errors import ConfigError
from tocsin.model_config import ModelConfig

PREFIX = "TOCSIN_"


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
