"""Settings of opinions: what a judge model is asked, and how its reply becomes a score."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tocsin.configuration.fields import Duration, HttpAddress


class JudgeModelConfig(BaseModel):
    """A model that judges answers, behind an OpenAI-compatible API."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    url: HttpAddress = Field(description="The API, such as http://127.0.0.1:30000/v1.")
    model: str = Field(description="The judge's name there.")
    key_env: str | None = Field(
        None, description="The environment variable that holds the API key; null: no key is sent."
    )
    ca: Path | None = Field(None, description="A PEM file of authorities to trust; null: the system's.")

    def resolve(self, folder: Path) -> None:
        """Make paths relative to a folder."""
        self.ca = self.ca and folder / self.ca


class _Score(BaseModel):
    model_config = ConfigDict(extra="forbid", defer_build=True)

    bundle: Path | None = Field(
        None, description="The promise for this opinion's score, made by `tocsin promise`; null: scores only."
    )

    def resolve(self, folder: Path) -> None:
        """Make paths relative to a folder."""
        self.bundle = self.bundle and folder / self.bundle


class _Opinion(_Score):
    prompt: Path | None = Field(
        None, description="A file with the prompt, in which names in braces are filled in; null: the prompt that ships."
    )

    def resolve(self, folder: Path) -> None:
        """Make paths relative to a folder."""
        super().resolve(folder)
        self.prompt = self.prompt and folder / self.prompt


class RatingConfig(_Opinion):
    """A rating, as the probabilities of all ratings."""

    kind: Literal["rating"] = Field(description="A rating, as the probabilities of all ratings.")
    ratings: int = Field(5, ge=2, le=9, description="Ratings go from 1 (worst) to this.")
    score: Literal["expectation", "entropy"] = Field(
        "expectation",
        description="expectation: by how many points the expected rating falls short of the best; entropy: how "
        "undecided the judge is, in nats.",
    )


class RubricConfig(_Opinion):
    """A rating by a rubric, with the reasons written first."""

    kind: Literal["rubric"] = Field(description="A rating by a rubric; the judge writes its reasons first.")
    rubric: Path = Field(description="A file with what to rate and what each rating means.")
    ratings: int = Field(5, ge=2, le=9, description="Ratings go from 1 (worst) to this.")
    tokens: int = Field(512, ge=1, le=32_768, description="Tokens that reasons and rating may take.")

    def resolve(self, folder: Path) -> None:
        """Make paths relative to a folder."""
        super().resolve(folder)
        self.rubric = folder / self.rubric


class ChecklistConfig(_Opinion):
    """Questions with the answer yes or no."""

    kind: Literal["checklist"] = Field(description="Questions that the judge answers with yes or no.")
    questions: list[str] = Field(
        [], max_length=50, description="The questions; yes is good. Each is one call of the judge."
    )
    questions_file: Path | None = Field(
        None, description="A file of questions instead, one a line, such as `tocsin checklist` writes."
    )

    @model_validator(mode="after")
    def _has_questions(self) -> ChecklistConfig:
        if bool(self.questions) == (self.questions_file is not None):
            raise ValueError("questions: a checklist has either questions or questions_file")
        return self

    def resolve(self, folder: Path) -> None:
        """Make paths relative to a folder."""
        super().resolve(folder)
        self.questions_file = self.questions_file and folder / self.questions_file


class PersonaConfig(_Opinion):
    """Whether the answer keeps to a persona."""

    kind: Literal["persona"] = Field(description="Whether the answer keeps to a persona.")
    persona: Path = Field(description="A file with who the assistant is, how it speaks, and what it must not claim.")

    def resolve(self, folder: Path) -> None:
        """Make paths relative to a folder."""
        super().resolve(folder)
        self.persona = folder / self.persona


class ReferenceConfig(_Opinion):
    """The answer beside a reference, in both orders."""

    kind: Literal["reference"] = Field(description="The answer beside a reference answer, in both orders.")
    references: Path | None = Field(
        None,
        description="JSON lines of {question, answer} with references for known questions; other questions are not "
        "asked about. null: the judge answers each question itself first.",
    )
    tokens: int = Field(512, ge=1, le=32_768, description="Tokens that the judge's own answer may take.")

    def resolve(self, folder: Path) -> None:
        """Make paths relative to a folder."""
        super().resolve(folder)
        self.references = self.references and folder / self.references


class NextTurnLabels(BaseModel):
    """Labels for `adapt`, from what users say next."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    safe_at_most: float = Field(0.1, ge=0, le=1, description="A score up to this labels the answer safe.")
    bad_from: float = Field(
        0.9, ge=0, le=1, description="A score from this on labels it bad; between them is no label."
    )
    remember: int = Field(10_000, ge=1, le=1_000_000, description="Answers that wait for the user's next turn.")

    @model_validator(mode="after")
    def _apart(self) -> NextTurnLabels:
        if self.safe_at_most >= self.bad_from:
            raise ValueError("safe_at_most must be less than bad_from")
        return self


class DissatisfactionConfig(_Opinion):
    """Whether the user's next turn shows dissatisfaction with the answer before it."""

    kind: Literal["dissatisfaction"] = Field(
        description="Whether the request's last turn shows dissatisfaction with the answer before it."
    )
    feedback: NextTurnLabels | None = Field(
        None, description="Label the answer before it for the model's `adapt`; null: a score only."
    )


class FollowUpConfig(_Opinion):
    """How much likelier a displeased user's next turn is than a pleased one's."""

    kind: Literal["follow_up"] = Field(description="How likely displeased next turns are beside pleased ones.")
    displeased: list[str] = Field(
        ["That does not answer my question.", "No, that is wrong."],
        min_length=1,
        max_length=10,
        description="What a user says next who is not content. Each is one call of the judge.",
    )
    pleased: list[str] = Field(
        ["Thank you, that answers my question.", "Yes, that is right."],
        min_length=1,
        max_length=10,
        description="What a user says next who is content. Each is one call of the judge.",
    )


class DensityRatioConfig(_Opinion):
    """How much likelier the answer is by a worse model than by the judge."""

    kind: Literal["density_ratio"] = Field(description="How likely a worse model finds the answer, beside the judge.")
    worse: JudgeModelConfig = Field(description="The worse model, such as the judge's own before it was aligned.")
    timeout: Duration = Field(timedelta(seconds=30), gt=timedelta(0), description="How long one call of it may take.")

    def resolve(self, folder: Path) -> None:
        """Make paths relative to a folder."""
        super().resolve(folder)
        self.worse.resolve(folder)


class LogSigmoidPart(BaseModel):
    """How the score of one opinion enters a sum of log-sigmoids."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    center: float = Field(
        allow_inf_nan=False, description="The score that is as likely good as bad, such as the median of safe answers'."
    )
    scale: float = Field(
        gt=0, allow_inf_nan=False, description="How far a score is from it that is good with a probability of 73%."
    )


class LogSigmoidConfig(_Score):
    """Scores of other opinions as one, by the sum of log-sigmoids."""

    kind: Literal["log_sigmoid"] = Field(description="Scores of other opinions as one, by the sum of log-sigmoids.")
    of: dict[str, LogSigmoidPart] = Field(
        min_length=2,
        description="The center and the scale of each, by the opinion's name; `tocsin opinions` prints some.",
    )


OpinionConfig = Annotated[
    RatingConfig
    | RubricConfig
    | ChecklistConfig
    | PersonaConfig
    | ReferenceConfig
    | DissatisfactionConfig
    | FollowUpConfig
    | DensityRatioConfig
    | LogSigmoidConfig,
    Field(discriminator="kind"),
]
