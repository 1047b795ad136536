"""Which of several hypotheses are false, by their e-values: names that are wrong with probability at most delta, ever.

Each hypothesis has an e-process (it reaches 1/delta with probability at most delta while the hypothesis is true) and a
weight; all weights sum to at most 1. Closed testing: a set of hypotheses is rejected when one of them has
e w / (the set's weight) >= 1/delta, and a hypothesis when every set that holds it is. That is Holm's procedure:
from the largest e w down, each is held to the weight of all that are not yet rejected.

Guarantee: P(any true hypothesis is ever rejected) <= delta, at any times and for any dependence. Let T be the true
ones, W their weight. When the first of T is rejected, all of T still count, so its e w >= W/delta; for hypothesis i
that happens with probability at most delta w_i / W, and these sum to delta.

Not the average of e-values, which closed testing may use as well: e-processes here are martingales each with regard to
its own ranks, of one detector or of one group. Their average at a time that depends on all of them need not have the
mean 1, the largest by weight holds for ever. And not e-BH: its promise is about the expected share of wrong names, at
one time; who acts on a name asks whether any is wrong, whenever it is read.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from math import inf, log
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)


def adjusted_log_evalues(
    log_evalues: Mapping[Key, float], weights: Mapping[Key, float], to_come: float = 0.0
) -> dict[Key, float]:
    """Each hypothesis' log of evidence after closed testing: reject where it reaches log(1/delta), for any delta.

    `weights` are above 0 and have the same keys; `to_come` is the weight of hypotheses that have no evidence yet.

    >>> adjusted = adjusted_log_evalues({"a": 9.0, "b": 6.0, "c": 0.0}, {"a": 0.5, "b": 0.25, "c": 0.25})
    >>> {name: round(value, 2) for name, value in adjusted.items()}
    {'a': 8.31, 'b': 5.31, 'c': 0.0}
    """
    order = sorted(log_evalues, key=lambda key: log_evalues[key] + log(weights[key]), reverse=True)
    remaining = sum(weights[key] for key in log_evalues) + to_come
    ceiling, result = inf, {}
    for key in order:
        ceiling = min(ceiling, log_evalues[key] + log(weights[key]) - log(remaining))
        result[key] = ceiling
        remaining -= weights[key]
    return result
