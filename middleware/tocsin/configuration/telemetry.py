"""Settings of OpenTelemetry: where spans and metrics are sent, and which."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import Url

from tocsin.configuration.fields import Duration, HttpAddress


class TelemetryConfig(BaseModel):
    """An OTLP receiver. Names and further attributes of the process come from OTEL_SERVICE_NAME and
    OTEL_RESOURCE_ATTRIBUTES, as everywhere.
    """

    model_config = ConfigDict(extra="forbid", defer_build=True)

    endpoint: HttpAddress = Field(
        Url("http://127.0.0.1:4317"), description="The receiver, http:// or https://; without a path."
    )
    protocol: Literal["grpc", "http"] = Field("grpc", description="OTLP over gRPC (port 4317) or HTTP (port 4318).")
    headers: Path | None = Field(None, description="A file of headers to send, NAME=VALUE a line, such as a token.")
    ca: Path | None = Field(None, description="A PEM file of authorities to trust; null: the system's.")
    timeout: Duration = Field(timedelta(seconds=10), description="How long one export may take.")
    traces: float | None = Field(
        0.01, ge=0, le=1, description="The share of calls without an alarm that spans are kept of; null: no spans."
    )
    follow_callers: bool = Field(False, description="Keep every call whose caller says that its trace is sampled.")
    metrics: Duration | None = Field(None, description="How often metrics are sent too; null: never.")

    def resolve(self, folder: Path) -> None:
        """Make paths relative to a folder."""
        self.headers = self.headers and folder / self.headers
        self.ca = self.ca and folder / self.ca
