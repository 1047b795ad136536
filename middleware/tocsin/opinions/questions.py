"""What is asked about each model's calls, from its settings."""

from __future__ import annotations

import os
from collections.abc import Mapping

from tocsin.configuration.opinions import DissatisfactionConfig
from tocsin.configuration.second_opinion import SecondOpinionConfig
from tocsin.errors import ConfigError
from tocsin.events.json_lines import JsonLines
from tocsin.judgement.levels import AdaptiveLevels
from tocsin.judgement.model import GuardedModel
from tocsin.opinions.asking import Questions
from tocsin.opinions.judge_model import JudgeModel
from tocsin.opinions.next_turn import AnswerLabels
from tocsin.opinions.registry import opinion_of
from tocsin.opinions.sampling_key import read_key
from tocsin.protocols.method import AT_END
from tocsin.protocols.texts import Texts


def questions_of(model: GuardedModel) -> Questions:
    """What is asked about a model's calls. Raises ConfigError."""
    config, where = model.config.second_opinion, f"models.{model.name}.second_opinion"
    assert config is not None
    texts: dict[str, Texts] = {}
    problems: list[str] = []
    for name, method in model.served.items():
        every = method.every if model.readers.every is None else model.readers.every
        try:
            reader = Texts(method, config.question, config.answer)
        except ValueError as error:
            problems.append(f"{name}: {error}")
            continue
        if method.streams and every != AT_END:
            problems.append(f"{name}: opinions are of whole answers: set `judge: end` for the model")
            continue
        texts[name] = reader
    if not texts:
        raise ConfigError(f"{where}: no opinion can be asked of any method: {'; '.join(problems)}")
    opinions = {name: opinion_of(settings) for name, settings in config.opinions.items()}
    seconds = config.timeout.total_seconds()
    judge = JudgeModel(config.judge, seconds, os.environ)
    others = config.agreement.judges if config.agreement is not None else ()
    other_judges = [JudgeModel(settings, seconds, os.environ) for settings in others]
    key = None if config.sampling_key is None else read_key(config.sampling_key)
    diversity = config.diversity
    embedder = None if diversity is None else JudgeModel(diversity.embedder, seconds, os.environ)
    return Questions(config, opinions, texts, judge, other_judges, embedder, _labels_of(model, config), key)


def _labels_of(model: GuardedModel, config: SecondOpinionConfig) -> dict[str, AnswerLabels]:
    """Who labels answers, by the opinion. Raises ConfigError where the model follows no labels."""

    def label(identifier: str, safe: bool) -> None:
        scoring = model.scoring  # a reload replaces it
        levels = None if scoring is None else scoring.judge.levels
        if isinstance(levels, AdaptiveLevels):
            levels.label(identifier, safe)

    labels = {}
    for name, opinion in config.opinions.items():
        if not isinstance(opinion, DissatisfactionConfig) or opinion.feedback is None:
            continue
        if model.config.adapt is None:
            where = f"models.{model.name}.second_opinion.opinions.{name}.feedback"
            raise ConfigError(f"{where}: labels are for levels that follow feedback: set models.{model.name}.adapt")
        labels[name] = AnswerLabels(opinion.feedback, label)
    return labels


def open_questions(models: Mapping[str, GuardedModel]) -> dict[str, Questions]:
    """What is asked about each model that has a second opinion, with the files for scores open. Raises ConfigError."""
    every = {name: questions_of(model) for name, model in models.items() if model.config.second_opinion is not None}
    for name, questions in every.items():
        path = questions.config.scores
        try:
            every[name] = questions._replace(scores=None if path is None else JsonLines(path))
        except OSError as error:
            raise ConfigError(f"models.{name}.second_opinion.scores: {path}: cannot be written ({error})") from None
    return every
