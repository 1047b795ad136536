"""What is configured of acting on alarms, in mode enforce."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from tocsin.configuration.fields import AddressField, Duration
from tocsin.configuration.listener import UpstreamTls
from tocsin.grpc_wire.status import Status

ActionName = Literal["pass", "flag", "retry", "fallback", "abstain", "block"]
Settled = Literal["pass", "flag", "abstain", "block"]


def _status(value: Any) -> str:
    name = str(value).upper()
    if name not in Status.__members__ or name == "OK":
        raise ValueError(
            f"expected the name of a gRPC status other than OK, such as FAILED_PRECONDITION, not '{value}'"
        )
    return name


StatusField = Annotated[str, BeforeValidator(_status)]


class Reaction(BaseModel):
    """What to do about an alarm of one severity."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    action: ActionName = Field("flag", description="pass, flag, retry, fallback, abstain or block.")
    share: float = Field(1.0, ge=0, le=1, description="The share of alarms it is done to; the others are flagged.")


def _reaction(value: Any) -> Any:
    return {"action": value} if isinstance(value, str) else value


ReactionField = Annotated[Reaction, BeforeValidator(_reaction)]


class AbstainConfig(BaseModel):
    """What callers get in place of an answer that is withheld: a response of the protocol, or a status."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    response: dict[str, Any] | None = Field(None, description="Fields of the response message; null: the status.")
    keep: list[str] = Field([], description="Fields of the withheld response to copy into it, such as id.")
    ending: dict[str, Any] | None = Field(
        None,
        description="Of a stream, fields of a last message that ends it, with status OK, such as "
        "{complete: {finish_reason: content_filter}}; null: the status.",
    )
    status: StatusField = Field("FAILED_PRECONDITION", description="The gRPC status where there is no response.")
    message: str = Field("the monitor abstains from this answer", description="The status message.")


class BlockConfig(BaseModel):
    """What callers of a blocked call get: a status, or of a stream the message that ends it."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    ending: dict[str, Any] | None = Field(
        None, description="Of a stream, fields of a last message that ends it, with status OK; null: the status."
    )

    status: StatusField = Field("PERMISSION_DENIED", description="The gRPC status.")
    message: str = Field("the monitor blocks this answer", description="The status message.")


class FallbackConfig(BaseModel):
    """A second, safer model that is asked the same."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    upstream: AddressField = Field(description="Where it is: HOST:PORT or unix:/PATH.")
    tls: UpstreamTls | None = Field(None, description="TLS towards it; null: none.")
    deadline: Duration = Field(timedelta(seconds=1), description="How long it may take.")
    otherwise: Settled = Field("abstain", description="What to do when it fails.")


class RetryConfig(BaseModel):
    """Asking the same model again. With `accuracy` and what the monitor passes, only as often as that is worth it."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    most: int = Field(1, ge=1, le=16, description="The most further tries.")
    deadline: Duration = Field(timedelta(seconds=1), description="How long a try may take.")
    otherwise: Literal["pass", "flag", "fallback", "abstain", "block"] = Field(
        "abstain", description="What to do when no try passes."
    )
    accuracy: float | None = Field(None, ge=0, le=1, description="The share of answers that are right.")
    passes_right: float = Field(1.0, ge=0, le=1, description="The share of right answers that the monitor passes.")
    passes_wrong: float = Field(0.0, ge=0, le=1, description="The share of wrong answers that it passes.")
    gain: float = Field(1.0, ge=0, description="What a right answer that is served earns.")
    loss: float = Field(1.0, ge=0, description="What a wrong answer that is served costs.")
    cost: float = Field(0.0, ge=0, description="What a try costs.")
    correlation: float = Field(0.0, ge=0, lt=1, description="The correlation of two tries at one prompt being right.")
