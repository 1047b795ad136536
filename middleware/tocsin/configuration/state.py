"""What is configured of state that replicas share."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

from tocsin.configuration.fields import Duration


class StateConfig(BaseModel):
    """A Redis that remembers sessions for all replicas."""

    model_config = ConfigDict(extra="forbid")

    redis: str = Field(description="redis://HOST:PORT/DB, rediss:// for TLS, or unix:///PATH.")
    cluster: bool = Field(False, description="The address is that of a node of a cluster.")
    username: str = Field("", description="The user, where there are ACLs.")
    password: Path | None = Field(None, description="A file with the password.")
    ca: Path | None = Field(None, description="A PEM file of authorities to trust; null: the system's.")
    prefix: str = Field("tocsin", pattern=r"^[\w.:-]+$", description="What its keys begin with.")
    timeout: Duration = Field(
        timedelta(milliseconds=20), description="How long one round trip may take; then this process goes on by itself."
    )

    @field_validator("redis")
    @classmethod
    def _is_an_address(cls, told: str) -> str:
        if not told.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError(f"expected redis://HOST:PORT, rediss:// or unix://, not '{told}'")
        if "@" in told:
            raise ValueError("the password belongs into a file: set username and password")
        return told

    def resolve(self, folder: Path) -> None:
        """Make paths relative to a folder."""
        self.password = self.password and folder / self.password
        self.ca = self.ca and folder / self.ca
