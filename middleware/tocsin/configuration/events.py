"""Settings of alarms as events: where they are sent, and how many of them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ByteSize, ConfigDict, Field, Tag, model_validator
from pydantic.types import Discriminator

from tocsin.configuration.fields import Duration, HttpAddress


class FileTarget(BaseModel):
    """A file of JSON lines; one that was moved away is made anew."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    file: Path = Field(description="The file to append to.")


class WebhookTarget(BaseModel):
    """CloudEvents over HTTP, one a request, signed as Standard Webhooks are."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    webhook: HttpAddress = Field(description="Where to POST.")
    secret: Path | None = Field(None, description="A file with the key that signs them (whsec_...); null: unsigned.")
    timeout: Duration = Field(timedelta(seconds=10), description="How long one request may take.")


class AlertmanagerTarget(BaseModel):
    """Alerts without a Prometheus between."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    alertmanager: HttpAddress = Field(description="The Alertmanager's address, without /api.")
    lasting: Duration = Field(timedelta(minutes=5), description="An alert ends so long after its last alarm.")
    timeout: Duration = Field(timedelta(seconds=10), description="How long one request may take.")


class KafkaTarget(BaseModel):
    """A topic of Kafka, keyed by model and session; needs the extra `kafka`."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    kafka: str = Field(description="Brokers, HOST:PORT,HOST:PORT.")
    topic: str = Field("tocsin-alarms", description="The topic.")
    settings: Path | None = Field(
        None, description="A file of further librdkafka settings, NAME=VALUE a line (TLS, SASL)."
    )


class LogTarget(BaseModel):
    """The process's own log."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    log: Literal["info", "warning"] = Field(description="The level of the lines.")


def _kind(value: object) -> str:
    names = value if isinstance(value, dict) else getattr(type(value), "model_fields", {})
    return next((name for name in ("file", "log", "webhook", "alertmanager", "kafka") if name in names), "file")


Target = Annotated[
    Annotated[FileTarget, Tag("file")]
    | Annotated[LogTarget, Tag("log")]
    | Annotated[WebhookTarget, Tag("webhook")]
    | Annotated[AlertmanagerTarget, Tag("alertmanager")]
    | Annotated[KafkaTarget, Tag("kafka")],
    Discriminator(_kind),
]


class EventsConfig(BaseModel):
    """Alarms as events."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    to: list[Target] = Field(min_length=1, description="Where events go: file, log, webhook, alertmanager or kafka.")
    spool: Path | None = Field(
        None, description="A folder for what is not delivered yet; needed by all targets but files and the log."
    )
    spool_size: ByteSize = Field(
        ByteSize(64 << 20), ge=1 << 16, description="Bytes that may wait for one target; further events are dropped."
    )
    window: Duration = Field(timedelta(seconds=10), description="The time in which `burst` counts.")
    burst: int = Field(
        10,
        ge=1,
        description="Alarms of a model that are events of their own in `window`; the others are summed in one.",
    )
    repeat: Duration = Field(
        timedelta(minutes=5),
        description="A session's further alarms are summed for so long, unless they are more severe.",
    )
    payload: Literal["none", "response", "both"] = Field(
        "none", description="Messages that an event carries, the first 64 KiB of each; none by default."
    )
    evidence: bool = Field(
        False, description="Events also of what evidence finds: which part of the traffic has changed, and since when."
    )

    @model_validator(mode="after")
    def _has_a_spool(self) -> EventsConfig:
        if self.spool is None and not all(isinstance(target, FileTarget | LogTarget) for target in self.to):
            raise ValueError("spool: is required, so that events outlive a restart: name a folder")
        return self

    def resolve(self, folder: Path) -> None:
        """Make paths relative to a folder."""
        self.spool = self.spool and folder / self.spool
        for target in self.to:
            if isinstance(target, FileTarget):
                target.file = folder / target.file
            elif isinstance(target, WebhookTarget):
                target.secret = target.secret and folder / target.secret
            elif isinstance(target, KafkaTarget):
                target.settings = target.settings and folder / target.settings


LABELS: dict[type[BaseModel], Literal["file", "webhook", "alertmanager", "kafka"]] = {
    FileTarget: "file", WebhookTarget: "webhook", AlertmanagerTarget: "alertmanager", KafkaTarget: "kafka",
}  # fmt: skip
