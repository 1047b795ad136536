"""Settings of state that replicas share."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tocsin.addresses import redacted_url
from tocsin.configuration.fields import Duration

TIMEOUT = timedelta(milliseconds=20)  # of a round trip, unless a scoring budget leaves less
ROUND_TRIPS = 4  # that a response may wait for: two of its own batch, after two of the one before


class StateConfig(BaseModel):
    """A Redis that remembers for all replicas."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    redis: str = Field(description="redis://HOST:PORT/DB, rediss:// for TLS, or unix:///PATH.")
    cluster: bool = Field(False, description="The address is that of a node of a cluster.")
    sentinel: str = Field(
        "",
        description="The name of the master, where the address is that of sentinels: redis://HOST:PORT,HOST:PORT/DB.",
    )
    username: str = Field("", description="The user, where there are ACLs.")
    password: Path | None = Field(None, description="A file with the password.")
    ca: Path | None = Field(None, description="A PEM file of authorities to trust; null: the system's.")
    prefix: str = Field("tocsin", pattern=r"^[\w.:-]+$", description="What its keys begin with.")
    timeout: Duration | None = Field(
        None,
        description="How long one round trip may take; then this process goes on by itself. null: 20ms, or a quarter "
        "of the least scoring_budget that is set for a model with sessions.",
    )

    @field_validator("redis")
    @classmethod
    def _is_an_address(cls, address: str) -> str:
        if not address.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError(f"expected redis://HOST:PORT, rediss:// or unix://, not '{redacted_url(address)}'")
        if "@" in address or "password=" in address:
            raise ValueError("the password belongs into a file: set username and password")
        return address

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> StateConfig:
        if self.cluster and self.sentinel:
            raise ValueError("cluster and sentinel both say what the address leads to: set one")
        if "," in self.redis and not self.sentinel:
            raise ValueError("several addresses are those of sentinels: set sentinel to the master's name")
        if self.sentinel:
            self.sentinels()
        return self

    def sentinels(self) -> tuple[list[tuple[str, int]], int]:
        """The addresses of the sentinels, and the database. Raises ValueError where the text is invalid."""
        _, _, where = self.redis.partition("://")
        hosts, _, database = where.partition("/")
        parts = [entry.rpartition(":") for entry in hosts.split(",")]
        if not all(host and port.isdigit() for host, _, port in parts) or not (database or "0").isdigit():
            raise ValueError(f"sentinels are redis://HOST:PORT,HOST:PORT/DB, not '{self.redis}'")
        return [(host, int(port)) for host, _, port in parts], int(database or 0)

    def resolve(self, folder: Path) -> None:
        """Make paths relative to a folder."""
        self.password = self.password and folder / self.password
        self.ca = self.ca and folder / self.ca
