"""The gate's evidence as PromQL, from the same counters: no service besides Prometheus is needed to look.

A subquery cuts the responses into the same batches as `tocsin gate --prometheus` does. In each step, all alternatives
are computed at once, as elements of one vector with the label `ratio`; their logs are summed over the steps and mixed.
A target whose counters fell, or were not there a batch ago, is left out of that batch. Without such, the result is
`log_evalue` of the gate, to the precision of floating point.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tocsin.rollouts.names import ALARMS, TOTAL
from tocsin.rollouts.prometheus import SCRAPE_DELAY
from tocsin_calibration.online.ratio_alternatives import HIGHEST, Direction, alternatives

MAX_EXPONENT = 700  # of which exp is a finite number


@dataclass(frozen=True)
class Compared:
    """What is compared: label matchers of both versions in Prometheus (no `stable` one with a promised `rate`), and how
    responses are cut into batches of `every` seconds over `within` seconds, more than a rollout takes.
    """

    model: str
    severity: str
    canary: str
    stable: str | None
    rate: float | None
    baseline: float
    every: int
    within: int


def log_evalue(compared: Compared, ratio: float, direction: Direction) -> str:
    """PromQL of the log of the evidence now: 0 before there is any, NaN where the canary is older than `within`, so
    that the evidence is not all of it.
    """
    baseline = compared.baseline if compared.rate is None else compared.rate
    trust, ratios = alternatives(ratio, direction, HIGHEST / baseline)
    batch = _beside_stable(compared, ratios, ratio) if compared.rate is None else _beside_rate(compared, ratios, ratio)
    window = f"[{compared.within}s:{compared.every}s] offset {SCRAPE_DELAY:.0f}s"
    mixed = (
        f"ln(sum({_vector(ratios, trust.tolist())}\n* on (ratio) exp(clamp_max(sum_over_time((\n{batch}\n){window}), "
        f"{MAX_EXPONENT}))))"
    )
    older = f"count({_counter(TOTAL, compared, compared.canary)} offset {compared.within}s) > 0"
    return f"({mixed}\nor vector(0)) unless on () ({older})\nor vector(NaN)"


def _beside_stable(compared: Compared, ratios: Sequence[float], ratio: float) -> str:
    """log of a batch's e-value, for each alternative."""
    assert compared.stable is not None
    q, r = compared.baseline, _vector(ratios, ratios)
    c, n = (_increase(kind, compared, compared.canary) for kind in ("alarms", "total"))
    d, m = (_increase(kind, compared, compared.stable) for kind in ("alarms", "total"))
    share = f"({n} / (({n} + {m}) > 0))"
    if ratio == 1:
        s = f"({q!r} + {q!r} * ({r} - 1) * on () group_left () {share})"
    else:
        constant = f"({q!r} + {q!r} * ({r} - 1) * on () group_left () {share})"
        linear = f"({ratio * q + 1!r} + ({q!r} * {r} + {ratio * (1 - q) - 1!r}) * on () group_left () {share})"
        s = f"(2 * {constant} / ({linear} + sqrt({linear} ^ 2 - {4 * ratio!r} * {constant})))"
    both = f"({n} > 0 and {m} > 0)"
    terms = [
        f"ln({r} / {float(ratio)!r}) * on () group_left () ({c} and {both})",
        f"ln({q!r} / {s}) * on () group_left () ({c} + {d})",
        f"ln((1 - {q!r} * {r}) / (1 - {float(ratio)!r} * {s})) * on () group_left () ({n} - {c})",
        f"ln({1 - q!r} / (1 - {s})) * on () group_left () ({m} - {d})",
    ]
    return "\n+ ".join(terms)


def _beside_rate(compared: Compared, ratios: Sequence[float], ratio: float) -> str:
    assert compared.rate is not None
    r, rate = _vector(ratios, ratios), compared.rate
    c, n = (_increase(kind, compared, compared.canary) for kind in ("alarms", "total"))
    return (
        f"ln({r} / {float(ratio)!r}) * on () group_left () {c}\n"
        f"+ ln((1 - {rate!r} * {r}) / {1 - ratio * rate!r}) * on () group_left () ({n} - {c})"
    )


def _vector(ratios: Sequence[float], values: Sequence[float]) -> str:
    """A constant for each alternative, told apart by the label `ratio`."""
    elements = (
        f'label_replace(vector({value!r}), "ratio", "{ratio:g}", "", "")'
        for ratio, value in zip(ratios, values, strict=True)
    )
    return f"({' or '.join(elements)})"


def _increase(kind: Literal["alarms", "total"], compared: Compared, matchers: str) -> str:
    """What all targets counted in a batch, without those that began anew in it."""
    total, alarms = (_counter(name, compared, matchers) for name in (TOTAL, ALARMS))
    back = f"offset {compared.every}s"
    counted, other = (alarms, total) if kind == "alarms" else (total, alarms)
    return (
        f"sum(({counted} - {counted} {back} >= 0) and ignoring (severity) ({other} - {other} {back} >= 0) "
        f"and ignoring (severity) (resets({total}[{2 * compared.every}s]) == 0))"
    )


def _counter(name: str, compared: Compared, matchers: str) -> str:
    labels = [f"model={json.dumps(compared.model, ensure_ascii=False)}"]
    if name == ALARMS:
        labels.append(f"severity={json.dumps(compared.severity, ensure_ascii=False)}")
    return f"{name}{{{','.join([*labels, *filter(None, [matchers.strip().rstrip(',')])])}}}"
