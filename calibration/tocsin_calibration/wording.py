"""The sentences that a person reads of a promise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from tocsin_calibration.dividing import MIN_REFERENCE, MIN_REFERENCE_SESSIONS, missing
from tocsin_calibration.sessions.rule import SessionRule
from tocsin_calibration.thresholds.joint import Float64
from tocsin_calibration.thresholds.limits import Limits
from tocsin_calibration.thresholds.pac import required_size_pac
from tocsin_calibration.thresholds.terms import Guarantee


class Stated(Protocol):
    """What the sentences name of a promise; `promise.Promise` says what each attribute is."""

    @property
    def alphas(self) -> Mapping[str, float]: ...
    @property
    def terms(self) -> Guarantee: ...
    @property
    def n(self) -> int: ...
    @property
    def unit(self) -> str: ...
    @property
    def limits(self) -> Limits: ...
    @property
    def groups(self) -> Mapping[str, Limits]: ...
    @property
    def others(self) -> Limits | None: ...
    @property
    def parts(self) -> Mapping[str, Limits]: ...
    @property
    def sessions(self) -> SessionRule | None: ...
    @property
    def is_per_step(self) -> bool: ...
    @property
    def scales(self) -> Float64 | None: ...


def sentence(promise: Stated, severity: str) -> str:
    """One severity's promise in words, with what one calibration set lets a user see."""
    if promise.groups and promise.sessions is None:
        return _of_groups(promise, severity)
    if promise.is_per_step:
        return _of_steps(promise, severity)
    limits, terms, unit = promise.limits, promise.terms, promise.unit
    low, high = limits.rate_range(severity)
    like = f"{severity}: at most {percent(promise.alphas[severity])} of safe {unit} like the {promise.n:,} calibration"
    if terms.contaminated:  # the law is that of the worst case, and bounds all others
        return (
            f"{like} {unit} alarm, although up to {percent(terms.contaminated)} of them may be bad; you will see at "
            f"most {percent(high)} (99 times of 100)"
        )
    alarm, expected = f"{like} {unit} alarm", f"{percent(low)} to {percent(high)} (99 times of 100)"
    if (sure := limits.sure[severity]) is not None:
        alarm += f" (confidence {percent(sure)})"
    if limits.clustered is not None:
        remark = _alike(promise)
        return f"{alarm}{_on_average(sure)}; they come from {remark}; you will see about {expected}"
    if limits.weighted is not None:
        worth = f"weighted to the traffic expected, worth {limits.laws[severity].n:,}"
        return f"{alarm}{_on_average(sure)}; {worth}; you will see about {expected}"
    if sure is not None:
        return f"{alarm}; expect about {percent(limits.likely_law(severity).mean_rate)}"
    return f"{alarm}{_on_average(sure)}{_missing(promise, severity)}; with this one you will see {expected}"


def percent(rate: float) -> str:
    """A rate as a person writes it: 0.05 -> '5%', 0.0372 -> '3.7%'."""
    return f"{rate * 100:.2g}%" if rate < 0.1 else f"{rate * 100:.3g}%"


def of_scales(promise: Stated) -> str | None:
    """Where the detectors' scales come from, where that is not a part of calibration."""
    if promise.scales is None:
        return None
    return (
        f"scales of the detectors come from {len(promise.scales):,} responses outside calibration: all {promise.n:,} "
        f"{promise.unit} carry the promise"
    )


def _on_average(sure: float | None) -> str:
    return ", on average over calibrations" if sure is None else ""


def _missing(promise: Stated, severity: str) -> str:
    """How many more it takes for the confidence that was meant; nothing where the average was asked for."""
    terms = promise.terms
    if terms.confidence is None:
        return ""
    enough = required_size_pac(promise.alphas[severity], 1 - terms.confidence)
    least = MIN_REFERENCE if promise.sessions is None else MIN_REFERENCE_SESSIONS
    more = missing(promise.n, enough, least) if promise.scales is None else enough - promise.n
    return f" ({more:,} more {promise.unit} would promise it for this one, confidence {percent(terms.confidence)})"


def _alike(promise: Stated) -> str:
    """What is known of how much sessions differ, and whether the promise is for new ones."""
    clustered = promise.limits.clustered
    assert clustered is not None
    remark = "1 session" if clustered.sessions == 1 else f"{clustered.sessions:,} sessions"
    if clustered.correlation is not None:
        remark += (
            f" that differ by an intraclass correlation of {clustered.correlation:.2f}, and are worth "
            f"{clustered.effective:,} independent ones"
        )
    return remark if promise.limits.weighted is not None else f"{remark}: too few to promise it for new sessions"


def _of_steps(promise: Stated, severity: str) -> str:
    """The sentence of a promise for each step of a session."""
    unit, parts = promise.unit, [promise.limits, *promise.groups.values()]
    return (
        f"{severity}: at each step, at most {percent(promise.alphas[severity])} of safe {unit} like the {promise.n:,} "
        f"calibration {unit} alarm{_terms_of(promise, severity, parts)}; {_seen_in(promise, severity, parts)} at any "
        f"one step. How many {unit} alarm at some step is not promised: more do"
    )


def _of_groups(promise: Stated, severity: str) -> str:
    """The sentence of a promise for each group."""
    others = "" if promise.others is None else f" and at most as many of all other groups' {promise.unit} together"
    lack = ", and nothing is promised for other groups" if promise.others is None else ""
    parts = list(promise.parts.values())
    return (
        f"{severity}: at most {percent(promise.alphas[severity])} of each of {len(promise.groups):,} groups' "
        f"{promise.unit} alarm{others}{_terms_of(promise, severity, parts)}{lack}; "
        f"{_seen_in(promise, severity, parts)} in any one"
    )


def _terms_of(promise: Stated, severity: str, parts: Sequence[Limits]) -> str:
    """With which confidence the promise of each part is made."""
    if promise.terms.confidence is None:
        return ", on average over calibrations"
    sure = percent(promise.terms.confidence)
    lacking = sum(limits.sure[severity] is None for limits in parts)
    enough = required_size_pac(promise.alphas[severity], 1 - promise.terms.confidence)
    if lacking == len(parts):
        return f", on average over calibrations (confidence {sure} takes {enough:,} {promise.unit} in one)"
    few = f"; on average over calibrations in {lacking:,} with fewer than {enough:,}" if lacking else ""
    return f" (confidence {sure} each{few})"


def _seen_in(promise: Stated, severity: str, parts: Sequence[Limits]) -> str:
    """Which rates one calibration set lets a user see in these parts."""
    if all(limits.sure[severity] is None for limits in parts):
        ranges = [limits.rate_range(severity) for limits in parts]
        low, high = percent(min(low for low, _ in ranges)), percent(max(high for _, high in ranges))
        return f"with this one you will see {low} to {high} (99 times of 100)"
    rates = [limits.likely_law(severity).mean_rate for limits in parts]
    low, high = percent(min(rates)), percent(max(rates))
    return f"expect about {low}" if low == high else f"expect about {low} to {high}"
