"""The opinions by the name of their kind in the configuration. A new opinion is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from tocsin.configuration.opinions import OpinionConfig
from tocsin.opinions.checklist import Checklist
from tocsin.opinions.density_ratio import DensityRatio
from tocsin.opinions.dissatisfaction import Dissatisfaction
from tocsin.opinions.follow_up import FollowUp
from tocsin.opinions.log_sigmoid import LogSigmoid
from tocsin.opinions.opinion import Opinion
from tocsin.opinions.persona import Persona
from tocsin.opinions.rating import Rating
from tocsin.opinions.reference import Reference
from tocsin.opinions.rubric import Rubric

KINDS = (Rating, Rubric, Checklist, Persona, Reference, Dissatisfaction, FollowUp, DensityRatio, LogSigmoid)
OPINIONS: Mapping[str, Callable[[Any], Opinion | LogSigmoid]] = MappingProxyType({kind.kind: kind for kind in KINDS})


def opinion_of(config: OpinionConfig) -> Opinion | LogSigmoid:
    """An opinion from its settings. Raises ConfigError where a file that it needs cannot be used."""
    return OPINIONS[config.kind](config)
