"""Settings of a second opinion: which calls, whom to ask, and how much of it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ByteSize, ConfigDict, Field, model_validator

from tocsin.configuration.fields import Duration
from tocsin.configuration.opinions import JudgeModelConfig, LogSigmoidConfig, OpinionConfig

NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"  # of an opinion: its score is a signal of that name


def opinion_model(model: str, opinion: str) -> str:
    """The name under which an opinion of a model is judged and counted, as a model of its own."""
    return f"{model}:{opinion}"


class AgreementConfig(BaseModel):
    """Further judges that are asked the same about some of the drawn calls: how far the judges agree."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    judges: list[JudgeModelConfig] = Field(min_length=1, max_length=5, description="The further judges.")
    share: float = Field(0.1, gt=0, le=1, description="The share of drawn calls that they are asked about, too.")
    window: int = Field(200, ge=20, le=10_000, description="Calls over which agreement is reckoned, the latest.")
    at_least: float | None = Field(
        None,
        lt=1,
        description="The agreement of the window below which an opinion is not believed: its scores are counted and "
        "not judged. 0.667 is usual. null: agreement is measured only.",
    )
    measure: Literal["krippendorff", "icc"] = Field(
        "krippendorff",
        description="What `at_least` is held against: Krippendorff's alpha, or the intraclass correlation ICC(2,1) of "
        "the calls that every judge has scored.",
    )

    def resolve(self, folder: Path) -> None:
        """Make paths relative to a folder."""
        for judge in self.judges:
            judge.resolve(folder)


class DiversityConfig(BaseModel):
    """How different the latest answers are from each other, by a model that embeds texts."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    embedder: JudgeModelConfig = Field(description="A model that embeds texts, behind an OpenAI-compatible API.")
    window: int = Field(100, ge=2, le=1_000, description="Drawn answers that are compared, the latest.")

    def resolve(self, folder: Path) -> None:
        """Make paths relative to a folder."""
        self.embedder.resolve(folder)


class SecondOpinionConfig(BaseModel):
    """What a judge model thinks of a sample of answers, asked off the response's path. Questions and answers are sent
    to the judge.
    """

    model_config = ConfigDict(extra="forbid", defer_build=True)

    judge: JudgeModelConfig = Field(description="The model that judges.")
    opinions: dict[Annotated[str, Field(pattern=NAME)], OpinionConfig] = Field(
        min_length=1,
        description="What it is asked, by the name of the opinion: its kind and settings.",
    )
    agreement: AgreementConfig | None = Field(
        None, description="Further judges, to see how far judges agree; null: the judge is believed as it is."
    )
    diversity: DiversityConfig | None = Field(
        None, description="Measure how different the latest answers are from each other; null: not."
    )
    share: float = Field(0.01, ge=0, le=1, description="The share of calls that is drawn at random.")
    alarmed: bool = Field(False, description="Ask about every alarmed call too, beside those that are drawn.")
    sampling_key: Path | None = Field(
        None,
        description="A file with the key that draws calls by their trace, so that replicas draw the same; null: a key "
        "of this process.",
    )
    question: str = Field("", description="Where the request's text is, such as request.messages; presets know it.")
    answer: str = Field("", description="Where the response's text is, such as response.text; presets know it.")
    calls_per_minute: int = Field(60, ge=1, description="Calls of the judge a minute, at most, of all workers.")
    timeout: Duration = Field(
        timedelta(seconds=30), gt=timedelta(0), description="How long one call of the judge may take."
    )
    concurrent: int = Field(4, ge=1, le=64, description="Calls of the judge at a time, of each worker.")
    queue: int = Field(100, ge=1, le=100_000, description="Calls that may wait to be asked about; further are lost.")
    max_wait: Duration = Field(
        timedelta(minutes=5), description="A call that has waited for so long is not asked about any more."
    )
    max_text: ByteSize = Field(
        ByteSize(256 << 10), ge=1, description="Calls whose messages are larger are not asked about."
    )
    scores: Path | None = Field(
        None, description="A file of JSON lines that gets every score, without texts; for `tocsin promise`."
    )

    @model_validator(mode="after")
    def _asks_somebody(self) -> SecondOpinionConfig:
        if not self.share and not self.alarmed:
            raise ValueError("share: of no call is an opinion asked: set share, or alarmed: true")
        return self

    @model_validator(mode="after")
    def _combines_what_is_asked(self) -> SecondOpinionConfig:
        names = [name for name, opinion in self.opinions.items() if not isinstance(opinion, LogSigmoidConfig)]
        for name, opinion in self.opinions.items():
            unknown = (
                [part for part in opinion.of if part not in names] if isinstance(opinion, LogSigmoidConfig) else []
            )
            if unknown:
                raise ValueError(
                    f"opinions.{name}.of: '{unknown[0]}' is no opinion that is asked (there are: {', '.join(names)})"
                )
        return self

    def resolve(self, folder: Path) -> None:
        """Make paths relative to a folder."""
        self.judge.resolve(folder)
        if self.agreement is not None:
            self.agreement.resolve(folder)
        if self.diversity is not None:
            self.diversity.resolve(folder)
        self.sampling_key = self.sampling_key and folder / self.sampling_key
        self.scores = self.scores and folder / self.scores
        for opinion in self.opinions.values():
            opinion.resolve(folder)
