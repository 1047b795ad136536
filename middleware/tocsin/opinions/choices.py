"""Choices among tokens: the probabilities that a judge gives to the tokens it may answer with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tocsin.opinions.lost import Lost

MIN_MASS = 0.1  # probability that all choices together must have; a judge below it says something else


def choice_probabilities(tokens: Mapping[str, float], choices: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    """The probabilities of choices (C,), of the mass that all of them have. `tokens` are log-probabilities, nats, of
    likely first tokens; each choice is one of several spellings.

    Raises Lost `unreadable` where the choices together have a probability below MIN_MASS.
    """
    mass = np.array([sum(np.exp(tokens[token]) for token in spellings if token in tokens) for spellings in choices])
    total = float(mass.sum())
    if not total >= MIN_MASS:  # NaN, too
        names = ", ".join(spellings[0] for spellings in choices)
        raise Lost("unreadable", f"the judge's first token is one of {names} with probability {total:.2g} only")
    return np.asarray(mass / total, np.float64)
