"""Settings of recording while serving: where to, how much, and what one sample is."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ByteSize, ConfigDict, Field

from tocsin.configuration.fields import Duration


class RecordConfig(BaseModel):
    """A random sample of judged responses, for calibration; needs the extra `record`."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    to: Path = Field(description="The folder that Parquet files are written into; it is made if it is not there.")
    rows: int = Field(10_000, ge=1, description="Responses of each model that one sample keeps at most.")
    size: ByteSize = Field(
        ByteSize(64 << 20), ge=1 << 16, description="Bytes that the samples of all models may take in memory."
    )
    sample: Literal["responses", "sessions"] = Field(
        "responses",
        description="What is drawn at random: single responses, or sessions with all of their responses, for promises "
        "for sessions.",
    )
    period: Duration = Field(
        timedelta(hours=24),
        ge=timedelta(seconds=1),
        description="How long one sample lasts; then its file is complete, and the next begins.",
    )
    every: Duration = Field(
        timedelta(minutes=5), ge=timedelta(seconds=1), description="How often the sample so far is written."
    )
    files: int = Field(
        14, ge=1, description="Files of each model that stay in the folder: the oldest are removed when one is written."
    )

    def resolve(self, folder: Path) -> None:
        """Make the path relative to a folder."""
        self.to = folder / self.to
